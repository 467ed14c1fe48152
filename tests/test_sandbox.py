"""sandbox.py and the judge `code`: hostile programs (hostile.py), honest ones, values, asserts, all of MBPP, the command line."""
import ast
import collections
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import hostile
import judges
import pytest
import sandbox
from data import Example
from files import InputError, read_jsonl
from model import deadline

ROOT = Path(__file__).resolve().parent.parent
ON = sandbox.layers()
STRONG = "seccomp" in ON and ("landlock" in ON or "namespaces" in ON)
strong = pytest.mark.skipif(not STRONG, reason=f"programs cannot be isolated here: only {', '.join(ON)}")


def judge(response, tests=("assert f(3) == 1009", 'assert f(4) == [1013, "x"]'), setup=""):
    return judges.code(response, Example("1", "", "", {"tests": list(tests), "setup": setup}), unsafe=not STRONG)


def run(code, *calls, setup="", **kwargs):
    return sandbox.run(code, setup, list(calls), unsafe=not STRONG, **kwargs)


def state():
    """What of this process a program might change."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return (os.getcwd(), environment, [resource.getrlimit(kind) for kind in range(16)], sorted(os.listdir("/proc/self/fd")),
            signal.getsignal(signal.SIGTERM), sys.getrecursionlimit(), os.sched_getaffinity(0),
            os.getpriority(os.PRIO_PROCESS, 0), sys.path[:])


def children():
    """Processes whose parent is this one; as this one is made a subreaper (prctl(2)), all that a program left behind are."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                found += [entry] if int(status[1]) == os.getpid() else []
            except OSError:
                pass
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with canaries, sockets that listen, and an exact account of what is there: (names for hostile.py, check)."""
    if sys.platform != "linux":
        pytest.skip("the attacks are Linux's")
    folder, work = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("work")
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o777)
    canary = folder / "canary"
    canary.write_text("secret")
    canary.chmod(0o666)
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    port, udp_port = tcp.getsockname()[1], udp.getsockname()[1]
    unix, abstract, unix_udp, abstract_udp = (socket.socket(socket.AF_UNIX, kind) for kind in
                                              [socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_DGRAM])
    cwd = os.getcwd()
    os.chdir(folder)  # a socket's path has 108 bytes at most
    unix.bind("socket")
    unix_udp.bind("socket.udp")
    os.chdir(cwd)
    abstract.bind(f"\0s3ft-{port}")
    abstract_udp.bind(f"\0s3ft-udp-{udp_port}")
    unix.listen(), abstract.listen()
    sockets = [tcp, udp, unix, abstract, unix_udp, abstract_udp]
    for item in sockets:
        item.setblocking(False)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    names = {"CANARY": canary, "FOLDER": folder, "PARENT": os.getpid(), "TCP": port, "UDP": udp_port, "UNIX": folder / "socket",
             "SOURCE": ROOT / "judges.py", "SITE": site}
    libraries = [os.__file__, os.path.dirname(os.__file__), site]
    os.environ["S3FT_SECRET"] = "secret"
    inherited = os.open(canary, os.O_RDWR)
    os.set_inheritable(inherited, True)
    tempfile.tempdir = str(work)
    work.chmod(0o777)

    def account():
        stats = [os.stat(path) for path in [canary, folder, *libraries]]
        return (canary.read_text(), sorted(os.listdir(folder)),
                [(s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats],
                [os.path.exists(path) for path in ["/var/tmp/s3ft-pwned", "/dev/shm/s3ft-pwned", ROOT / "pwned.py"]],
                socket.gethostname(), state())
    before = account()

    def check():
        assert account() == before
        for item in sockets:
            with pytest.raises(BlockingIOError):
                item.recv(1) if item.type == socket.SOCK_DGRAM else item.accept()
        assert os.listdir(work) == [] and [Path(f"/proc/{pid}/stat").read_text()[:90] for pid in children()] == []
    check()
    yield names, check
    tempfile.tempdir = None
    os.environ.pop("S3FT_SECRET")
    os.close(inherited)
    for item in sockets:
        item.close()


@pytest.fixture(scope="module", autouse=True)
def subreaper():
    if sys.platform == "linux":
        sandbox.call("prctl", 36, 1, 0, 0, 0)
        yield
        sandbox.call("prctl", 36, 0, 0, 0, 0)
    else:
        yield


def filled(program, names):
    return re.sub("@([A-Z]+)@", lambda name: str(names[name[1]]) if name[1] in names else name[0], program)


# -- Hostile programs -----------------------------------------------------------------------------------------------------

@strong
def test_no_forgery_is_accepted_and_nothing_is_left(world, monkeypatch):
    monkeypatch.setattr(sandbox, "run", partial(sandbox.run, cpu_seconds=1))
    names, check = world
    with ThreadPoolExecutor(8) as pool:
        verdicts = dict(zip(hostile.FORGERIES,
                pool.map(lambda program: judge(filled(program, names)), hostile.FORGERIES.values())))
    assert {name: verdict for name, verdict in verdicts.items() if verdict.correct} == {}
    for _, reason in verdicts.values():
        assert reason.isascii() and "\n" not in reason and len(reason) < 400
    check()
    reasons = collections.Counter(verdict.reason.split(":")[0] for verdict in verdicts.values())
    assert set(reasons) <= {"wrong value", "raised", "timed out", "exited early", "syntax error", "not plain data", "too large",
            "too deep",
                            "too long", "broken result"}, reasons
    for name, reason in [
        ("os._exit", "exited early"), ("loops", "timed out"), ("a cycle", "too deep"), ("a long list", "too large"),
        ("equals everything", "not plain data"), ("frame: nested", "broken result"), ("sys.exit", "raised: NameError"),
        ("NUL", "syntax error"), ("memory", "raised: MemoryError"), ("forks", "raised: PermissionError"),
        ("waits for input", "raised: EOFError"), ("a long source", "too long")]:
        assert verdicts[name].reason.startswith(reason), (name, verdicts[name])


@strong
@pytest.mark.parametrize("without", [
    [], ["namespaces", "uid"], ["uid"], ["landlock", "uid"]], ids=lambda names: "without " + "-".join(names))
def test_no_attack_succeeds(world, without):
    """With all layers, as in a container (no namespaces), as the own user, and on a kernel without Landlock."""
    on = [layer for layer in ON if layer not in without]
    if on == ON and without or not {"namespaces", "landlock"} & {*on}:
        pytest.skip(f"{', '.join(without)} are not on here, or are all there is")
    names, check = world

    def attack(name):
        return sandbox.start(on, filled(hostile.ATTACKS[name], names), "", ["attack()"], 1)
    with ThreadPoolExecutor(8) as pool:
        outcomes = dict(zip(hostile.ATTACKS, pool.map(attack, hostile.ATTACKS)))
    assert {name: outcome for name, outcome in outcomes.items() if outcome.values not in (None, [False])} == {}
    broken = {name: outcome for name,
        outcome in outcomes.items() if outcome.reason.startswith(("syntax", "broken", "raised: NameError"))}
    assert broken == {}, "the attack itself is at fault"
    check()


@strong
def test_attacks_succeed_without_layers(world, tmp_path):
    """The tests above can fail. What the attack left is put back."""
    names, check = world
    canary, folder = names["CANARY"], names["FOLDER"]
    stats = canary.stat()
    outcomes = {name: sandbox.start(["rlimits"], filled(hostile.ATTACKS[name], names), "", ["attack()"],
        5) for name in hostile.HARMLESS}
    assert {name: outcome for name, outcome in outcomes.items() if outcome.values != [True]} == {}
    with pytest.raises(AssertionError):
        check()
    assert canary.read_text() == "secretpwned" and (folder / "new").exists() and (folder / "pwned").is_dir()


@pytest.mark.skipif("namespaces" not in ON, reason="the disk is limited by namespaces alone")
def test_the_disk_is_not_filled():
    total, *_ = run("total = 0\ntry:\n    for i in range(100):\n        with open(str(i), 'wb') as file:\n"
                    "            for _ in range(15): total += file.write(bytes(1 << 20))\nexcept OSError: pass", "total").values
    assert 15 << 20 <= total <= sandbox.DISK


def test_there_are_many_and_each_is_another():
    programs = [*hostile.FORGERIES.values(), *hostile.ATTACKS.values()]
    assert len(programs) == len(set(programs)) >= 200 and len(hostile.FORGERIES) >= 80
    assert set(hostile.HARMLESS) <= set(hostile.ATTACKS)


@strong
def test_a_killed_judge_takes_its_programs_along(tmp_path):
    source = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sandbox, tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
              "print(len(sandbox.layers()), flush=True); sandbox.run('while True: pass', '', ['1'])")
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    process.stdout.readline()
    until = time.monotonic() + 20
    while not (busy := descendants(process.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    assert busy
    process.kill()
    process.wait()
    process.stdout.close()
    while any(os.path.exists(f"/proc/{pid}") for pid in busy) and time.monotonic() < until:
        for pid in children():  # orphans come here to be waited for
            os.waitpid(int(pid), os.WNOHANG)
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in busy)


def descendants(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


@strong
def test_the_folder_is_removed_whatever_is_in_it(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    folder = tmp_path / "work"
    folder.mkdir()
    deep = os.getcwd()
    os.chdir(folder)
    for _ in range(2000):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(deep)
    (folder / "link").symlink_to(outside)
    (folder / "d" / "link").symlink_to(outside)
    (folder / "locked").mkdir()
    (folder / "locked" / "inner").mkdir(mode=0)
    (folder / "locked").chmod(0)
    os.mkfifo(folder / "d" / "pipe")
    sandbox.remove(folder)
    assert not folder.exists() and (outside / "file").read_text() == "kept"


# -- Refusal --------------------------------------------------------------------------------------------------------------

def test_refuses_where_it_cannot_isolate(monkeypatch):
    for on, fine in [
        (["rlimits"], False), (["rlimits", "seccomp"], False), (["rlimits", "landlock"], False),
        (["rlimits", "namespaces"], False), (["rlimits", "landlock", "seccomp"], True),
        (["rlimits", "namespaces", "seccomp"], True)]:
        monkeypatch.setattr(sandbox, "layers", lambda: on)
        assert sandbox.require(unsafe=True) == on
        if fine:
            assert sandbox.require() == on
        else:
            with pytest.raises(InputError, match="--unsafe-code") as caught:
                judges.code("x = 1", Example("1", "", "", {"tests": ["assert f(1)"]}))
            assert "\n" not in str(caught.value) and ", ".join(on) in str(caught.value)


def test_unsafe_runs_with_the_layers_there_are(monkeypatch):
    monkeypatch.setattr(sandbox, "layers", lambda: ["rlimits"])
    example = Example("1", "", "", {"tests": ["assert f(1) == 2"]})
    assert judges.code("def f(x): return x + 1", example, unsafe=True) == (True, "right")
    assert judges.code("def f(x): return x + 2", example, unsafe=True) == (False, "wrong value: test 1: 3")
    assert sandbox.run("def f():\n    while True: pass", "", ["f()"], cpu_seconds=1, unsafe=True).reason.startswith("timed out")


def test_layers_that_fail_are_off(monkeypatch):
    """Another machine: no layer but rlimits starts; another system: none is tried."""
    def fails(on, *_):
        raise OSError("the sandbox did not start")
    monkeypatch.setattr(sandbox, "start", fails)
    assert sandbox.layers.__wrapped__() == ["rlimits"]
    monkeypatch.setattr(sandbox, "start", lambda on, *_: sandbox.Outcome([True], ""))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox.layers.__wrapped__() == ["rlimits"]


@strong
def test_a_layer_that_fails_is_an_error_and_not_a_verdict(monkeypatch):
    monkeypatch.setattr(sandbox, "libraries", lambda: (["/nowhere"], []))
    with pytest.raises(OSError, match="sandbox did not start"):
        judge("def f(x): return 1")


def test_numbers_of_the_system_calls():
    """Against the kernel's headers, where they are: asm-generic's numbers are aarch64's."""
    table = [entry.split() for entry in sandbox.SYSTEM_CALLS.split(",")]
    table += [(name, *numbers) for name, *numbers, _, _, _ in sandbox.IN_PART(1)] + [("clone3", 435, 435),
        ("pivot_root", 155, 41)]
    headers = [Path(f"/usr/include/{name}") for name in ["x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h"]]
    if not all(header.exists() for header in headers):
        pytest.skip("no kernel headers here")
    x86, arm = (dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())) for header in headers)
    arm["newfstatat"] = arm["fstatat"]
    assert len({name for name, *_ in table}) == len(table)
    for name, number, arm_number in table:
        assert str(number) == x86[name] and (arm_number in ("-", None) or str(arm_number) == arm[name]), name
    assert all(x86[f"landlock_{name}"] == arm[f"landlock_{name}"] == str(number) for name, number in
               [("create_ruleset", 444), ("add_rule", 445), ("restrict_self", 446)])


@pytest.mark.parametrize("machine", sandbox.MACHINES)
def test_the_filter_run_by_hand(machine):
    """The BPF program, interpreted: what it says to each number, architecture and argument."""
    program = list(struct.iter_unpack("HBBI", sandbox.seccomp_filter(machine, 77)))
    column, architecture, _ = sandbox.MACHINES[machine]

    def says(number, *args, arch=architecture):
        data, at, value = struct.pack("IIQ6Q", number, arch, 0, *args, *[0] * (6 - len(args))), 0, 0
        while True:
            code, yes, no, k = program[at]
            at += 1
            if code == 0x20:
                value = struct.unpack_from("I", data, k)[0]
            elif code == 0x54:
                value &= k
            elif code == 0x15:
                at += yes if value == k else no
            else:
                return {0x7FFF0000: "allow", 0x50001: "EPERM", 0x50026: "ENOSYS"}[k]
    allowed = {int(entry.split()[1 + column]) for entry in sandbox.SYSTEM_CALLS.split(",") if entry.split()[1 + column] != "-"}
    partly = {name: numbers[column] for name, *numbers, _, _, _ in sandbox.IN_PART(77)}
    for number in range(600):
        if number not in partly.values():
            assert says(number) == ("allow" if number in allowed else "ENOSYS" if number == 435 else "EPERM"), number
        assert says(number, arch=architecture ^ 1) == says(number | 0x40000000) == "EPERM"
    thread = 0x3D0F00  # what glibc passes
    cases = [
        ("clone", thread, "allow"), ("clone", 17, "EPERM"), ("clone", thread | 0x10000000, "EPERM"),
        ("clone", 0x4100 | 17, "EPERM"), ("clone", thread & ~0x10000, "EPERM"), ("kill", 77, "allow"), ("kill", 0, "EPERM"),
        ("kill", 2**32 - 1, "EPERM"), ("kill", 1, "EPERM"), ("tgkill", 77, "allow"), ("tgkill", 78, "EPERM"),
        ("prctl", 15, "allow"), ("prctl", 1, "EPERM"), ("prctl", 22, "EPERM"), ("prlimit64", 0, "allow"),
        ("prlimit64", 5, "EPERM"), ("socketpair", 1, "allow"), ("socketpair", 2, "EPERM")]
    for name, first, answer in cases:
        assert says(partly[name], first) == answer, (name, first)
    assert says(partly["fcntl"], 0, 8) == says(partly["fcntl"], 0, 10) == says(partly["ioctl"], 0, 0x5412) == "EPERM"
    assert says(partly["openat"], 0, 0, 0o1000) == "EPERM" and says(partly["openat"], 0, 0, 0o1101) == "allow"
    assert says(partly["sendto"], 3, 1, 1, 0, 1, 0) == "allow" and says(partly["sendto"], 3, 1, 1, 0, 0, 16) == "EPERM"


# -- Honest programs ------------------------------------------------------------------------------------------------------

F = "def f(x):\n    return x + 1\n"
TESTS = ["assert f(1) == 2", "assert f(-1) == 0"]
FENCED = {
    "bare": F, "bare with CRLF": F.replace("\n", "\r\n"), "fenced": f"```python\n{F}```",
    "with text": f"Sure!\n\n```python\n{F}```\nIt adds 1.", "py": f"```py\n{F}```", "Python": f"```Python\n{F}```",
    "python3": f"```python3\n{F}```", "untagged": f"```\n{F}```", "tildes": f"~~~python\n{F}~~~",
    "long fence": f"````python\n{F}````", "space before the tag": f"``` python\n{F}```", "braces": f"```{{.python}}\n{F}```",
    "title": f"```python title=\"a.py\"\n{F}```", "CRLF": f"```python\n{F}```\n".replace("\n", "\r\n"),
    "unclosed": f"Here:\n```python\n{F}", "in a list": "1. So:\n" + textwrap.indent(f"```python\n{F}```", "   "),
    "fence in a string": f"~~~py\ns = '''\n```\n'''\n{F}~~~",
    "two blocks": f"```python\ny = 1\n```\nThen\n```python\n{F.replace('+ 1', '+ y')}```",
    "tagged and untagged": f"```\ny = 1\n```\nThen\n```python\n{F.replace('+ 1', '+ y')}```",
    "output": f"```python\n{F}print(f(1))\n```\nOutput:\n```\nThe result: 2\n```",
    "output that raises": f"```python\n{F}```\n```\napple\n```",
    "shell": f"```bash\npip install x\n```\n```python\n{F}```\n```text\nnot python\n```\n```json\n{{\"a\": true}}\n```",
    "session": f"```python\n{F}```\n```python\n>>> f(1)\n2\n```\n```\n>>> f(2)\n3\n```",
    "corrected": f"```python\n{F.replace('1', '2')}```\nNo:\n```python\n{F}```",
    "tests of its own": f"```python\n{F}\nassert f(1) == 2\n```",
    "spaces before": textwrap.indent(f"```python\n{F}```", "    ")}


@pytest.mark.parametrize("name", FENCED)
def test_fences(name):
    assert judge(FENCED[name], TESTS) == (True, "right")
    assert not judge(FENCED[name].replace("x + ", "x - "), TESTS).correct


def test_fences_take_linear_time():
    for text in "```" + " " * 10**6 + "`", "`" * 10**6 + " " * 10**6 + "`", "~" * 10**6 + "`", "```\n" * 10**5, " " * 10**6 + "x":
        with deadline(60):                                                   # in quadratic time it would be hours
            judges.programs(text)


@pytest.mark.parametrize("response, reason", [
    ("", "no code"), (" \n", "no code"), ("```bash\nls\n```", "no code"), ("```python\n```", "no code"),
    ("```python\n>>> f(1)\n2\n```", "no code"), ("I cannot do that.", "syntax error: SyntaxError"),
    ("def f(x) return x", "syntax error"), ("def g(x): return x", "raised: NameError: name 'f'"),
    ("def f(x): return x", "wrong value: test 1: 1"), ("def f(x): return 2", "wrong value: test 2: 2"),
    ("def f(x): return 'é' * 10**5", "wrong value: test 1: '\\xe9"),
    ("def f(x): return 10**9999", "wrong value: test 1: ValueError"), ("def f(x): return object", "not plain data: type"),
    ("def f(x): return lambda: 0", "not plain data: function"), ("def f(): return 2", "raised: TypeError"),
    ("def f(x): 1 / 0", "raised: ZeroDivisionError: division"), (f"{F}assert f(1) == 3", "raised: AssertionError"),
    (f"{F}raise Exception('a\\nb')", "raised: Exception: a b"), ("import nothing", "raised: ModuleNotFound"),
    ("x" * 10_001, "too long: 10001 characters"), ("```python\n" * 900, "syntax error"), ("~" * 9_000, "no code"),
    ("`" * 9_000 + "\n" + F, "wrong")])
def test_reasons(response, reason):
    if reason == "wrong":  # the fence is never closed: the program runs to the end
        assert judge(response, TESTS).correct
    else:
        verdict = judge(response, TESTS)
        assert not verdict.correct and verdict.reason.startswith(reason), verdict
        assert verdict.reason.isascii() and len(verdict.reason) < 350


HONEST = hostile.programs(r'''
#: main guard
def f(x):
    return x + 1
if __name__ == '__main__':
    import sys
    print(f(1))
    sys.exit(0)
#: exit()
def f(x):
    return x + 1
print(f(1))
exit()
#: quit in a main
def f(x):
    return x + 1
def main():
    print(f(1))
    quit(0)
main()
#: prints
def f(x):
    return x + 1
print('x' * 10**6, '\ud800', flush=True)
import sys
sys.stderr.write('warned')
#: helper
def g(x): return x
def f(x):
    return g(x) + 1
#: class
class C:
    def f(self, x): return x + 1
f = C().f
#: lambda
f = lambda x: x + 1
#: decorator
import functools
@functools.lru_cache(None)
def f(x):
    return x + 1
#: global
y = 1
def f(x):
    global y
    y = 1
    return x + y
#: typing
from __future__ import annotations
from typing import List, Optional
def f(x: Optional[int]) -> List[int]: return x + 1
#: dataclass
from dataclasses import dataclass
@dataclass
class P:
    x: int
    def f(self): return self.x + 1
def f(x): return P(x).f()
#: shadows a builtin
list = [1]
sum = 0
str = 'x'
def f(x):
    return x + 1
#: an int subclass
import enum
class E(enum.IntEnum):
    A = 2
    B = 0
def f(x): return E(x + 1)
#: a bool
def f(x): return 2 if x == 1 else False
#: a float
def f(x): return x + 1.0
#: a complex
def f(x): return complex(x + 1)
#: imports
import math, re, itertools, collections, heapq, bisect, string, random, datetime, decimal, fractions, statistics
import json, copy, operator, sys, os
import functools, array, csv, io, textwrap, unicodedata, calendar, time, zlib, hashlib, struct, queue
import types, abc, enum, cmath, numbers
def f(x):
    return x + 1
#: recursion
import sys
sys.setrecursionlimit(10**5)
def g(n): return 0 if n == 0 else 1 + g(n - 1)
def f(x): return x + 1 + g(20000) - 20000
#: a recursion in a thread
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(2**26)
def g(n): return 0 if n == 0 else 1 + g(n - 1)
def f(x):
    r = []
    t = threading.Thread(target=lambda: r.append(g(50000)))
    t.start()
    t.join()
    return x + 1 + r[0] - 50000
#: threads
from concurrent.futures import ThreadPoolExecutor
def f(x):
    with ThreadPoolExecutor(16) as p: return sum(p.map(int, [x] + [0] * 99)) + 1
#: asyncio
import asyncio
async def g(x):
    await asyncio.sleep(0.01)
    return x + 1
def f(x): return asyncio.run(g(x))
#: files
import os
def f(x):
    os.makedirs('a/b', exist_ok=True)
    with open('a/b/c.txt', 'w') as file: file.write(str(x))
    os.rename('a/b/c.txt', 'a/d')
    os.symlink('d', 'a/e') if not os.path.islink('a/e') else None
    return int(open('a/e').read()) + 1
#: tempfile
import tempfile, os, pathlib
def f(x):
    with tempfile.TemporaryDirectory() as d:
        p = pathlib.Path(d, 'x')
        p.touch()
        p.write_text('1')
        with tempfile.NamedTemporaryFile('w+') as t, tempfile.TemporaryFile() as u: return x + int(p.read_text())
#: numpy
import numpy as np
from numpy.linalg import inv
def f(x): return int((np.array([[x, 0], [0, 1]]) @ np.eye(2)).sum() + inv(np.eye(3)).sum() - 3)
#: numpy scalars
import numpy as np
def f(x): return np.int64(x) + 1 if x > 0 else np.float64(x) + 1
#: a slow one
def f(x):
    for i in range(10**7): pass
    return x + 1
#: sleeps a little
import time
def f(x):
    time.sleep(0.2)
    return x + 1
#: time and chance
import time, random, os, secrets
def f(x): return x + 1 + 0 * (time.time() > 0) * random.random() * len(os.urandom(3))
#: reads its source
import inspect
def f(x):
    return x + 1
f.__doc__ = inspect.getdoc(f)
#: a long output
def f(x):
    return x + 1
for i in range(10**5): print(i)
#: a thread left over
import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
def f(x):
    return x + 1
#: logging and warnings
import logging, warnings
logging.warning('x')
warnings.warn('y')
def f(x):
    return x + 1
#: a signal handler
import signal
signal.signal(signal.SIGINT, lambda *a: None)
def f(x):
    return x + 1
#: catches everything
def f(x):
    try: return x + 1
    except: pass
#: an escape in a string
p = '\d'
def f(x):
    return x + 1
#: a docstring
"""Adds.

>>> f(1)
2
"""
def f(x):
    return x + 1
#: doctest
def f(x):
    """
    >>> f(1)
    2
    """
    return x + 1
if __name__ == "__main__":
    import doctest
    doctest.testmod()
#: unittest
def f(x):
    return x + 1
import unittest
class T(unittest.TestCase):
    def test(self): self.assertEqual(f(1), 2)
if __name__ == '__main__': unittest.main()
#: pickle
import pickle
class P: pass
def f(x): return x + len([pickle.loads(pickle.dumps(P()))])
#: big memory
def f(x): return x + len(bytearray(4 * 10**8)) // (4 * 10**8)
''')


def test_a_test_that_no_value_can_pass_is_no_traceback():
    assert judge("def f(x): return x", ["assert f(1) == {[1]: 2}"]).reason == "wrong value: test 1: 1"     # a list as a key


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_are_accepted(name):
    if "numpy" in name:
        pytest.importorskip("numpy")
    assert judge(HONEST[name], TESTS) == (True, "right")
    assert judge(HONEST[name], ["assert f(1) == 3"]).reason.startswith("wrong value: test 1: ")


@pytest.mark.parametrize("value", [
    "None", "True", "0", "-1", "10**300", "1.5", "-0.0", "1e999", "1e-320", "1j", "''", "'é\\ud800\\0\\n\"'", "b'\\xff\\0'",
    "[]", "[[1], [2, [3]]]", "(1,)", "((),)", "{1, 'a'}", "frozenset({1})", "{}", "{1: 'a', (2, 3): [4], None: {5: 6}}",
    "range(3, 9, 2)", "[1, 1.0, True, None, 'x', b'y']", "[0] * 9000", "'x' * 900_000", "2**190_000",
    "{frozenset({(1, 2)}): {3}}"])
def test_plain_values_come_back_as_they_were(value):
    (back,), reason = run("", value)
    assert reason == "" and back == eval(value) and type(back) is type(eval(value))
    assert value == "2**190_000" or repr(back) == repr(eval(value))


@pytest.mark.parametrize("code, value", [
    ("from collections import Counter\nv = Counter('aab')", {"a": 2, "b": 1}),
    ("from collections import OrderedDict\nv = OrderedDict(a=1)", {"a": 1}),
    ("from collections import defaultdict\nv = defaultdict(list, a=[1])", {"a": [1]}),
    ("from collections import namedtuple\nv = namedtuple('P', 'x y')(1, 2)", (1, 2)),
    ("class S(str): pass\nv = [S('x')]", ["x"]), ("class L(list): pass\nv = L([1])", [1]),
    ("import enum\nv = enum.IntEnum('E', 'A').A", 1),
    ("class I(int):\n    def __index__(s): return 5\n    def bit_length(s): return 0\nv = I(7)", 7)])
def test_subclasses_are_reduced_to_their_base(code, value):
    back = run(code, "v").values[0]
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("code", [
    "v = object()", "v = print", "v = type", "import datetime\nv = datetime.date(2024, 1, 1)", "v = bytearray(1)",
    "v = [Ellipsis]", "import decimal\nv = decimal.Decimal(1)", "v = {}.keys()", "class C: pass\nv = [C()]",
    "v = memoryview(b'')"])
def test_anything_else_is_refused(code):
    assert run(code, "v").reason.startswith("not plain data: ")


def test_calls_run_in_order_in_one_program():
    assert run("n = 0\ndef f():\n    global n\n    n += 1\n    return n", "f()", "f()", "n") == ([1, 2, 2], "")
    assert run("v = []\ndef f(x):\n    v.append(x)\n    return v", "f(1)", "f(2)") == ([[1], [1, 2]], "")
    assert run("class Node:\n    def __init__(self, v): self.v = v", "root.v", setup="root = Node(7)") == ([7], "")
    assert run("", "1", setup="1 / 0").reason == "raised: ZeroDivisionError: division by zero"
    assert run("x = {'b', 'a', 'c'}", "list(x)", "hash('x')") == run("x = {'b', 'a', 'c'}", "list(x)",
            "hash('x')")  # PYTHONHASHSEED


@pytest.mark.parametrize("data, value",
    [(b'[true,[["int","0x7"]]]', [7]), (b'[true,[["list",[null,["str","61"]]],true]]', [[None, "a"], True])])
def test_frames(data, value):
    assert sandbox.decode_frame(data) == (value, "")
    draw = random.Random(0)
    for _ in range(3000):  # broken ones decode to something or are refused, and never raise
        broken = bytearray(data)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(broken))
            broken[at:at + draw.randrange(3)] = draw.choice([
                b"", b"[", b"]", b'"', b"1", b"-", b",", b"null", b'"set"', b'"dict"', b'"range"', b"{", b"\xff", b"e9"])
        sandbox.decode_frame(bytes(broken))


# -- Asserts --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("test, right, wrong", [
    ("assert f(1) == 2", "2", "3"), ("assert f(1) == 4", "4.0", "4.1"), ("assert (f(1)) == 2 , 'message'", "2", "None"),
    ("assert 2 == f(1)", "2", "'2'"), ("assert not f(1)", "[]", "[0]"), ("assert f(1)", "1", "0"),
    ("assert f(1) is None", "None", "0"), ("assert f(1) is not True", "1", "True"), ("assert f(1) in (1, 2)", "2", "3"),
    ("assert 'a' in f(1)", "'cat'", "'dog'"), ("assert 1 < f(1) <= 2", "2", "1"),
    ("assert set(f(1)) == {1, 2}", "[2, 1]", "[1]"), ("assert sorted(f(1)) == [1, 2]", "(2, 1)", "(2, 2)"),
    ("assert len(f(1)) == 2", "'ab'", "'a'"),
    ("assert sorted(f(1), key=len, reverse=True) == ['bb', 'a']", "['a', 'bb']", "['a']"),
    ("assert Counter(f(1)) == Counter('aab')", "'aba'", "'ab'"),
    ("assert f(1) == {'a': 2}", "__import__('collections').Counter('aa')", "{'a': 1}"),
    ("assert math.isclose(f(1), 0.5, rel_tol=1e-3)", "0.5001", "0.51"), ("assert abs(f(1) - 2.5) < 1e-6", "2.5", "2.6"),
    ("assert round(f(1), 2) == 0.33", "1/3", "1/4"), ("assert f(1)[0] == 1", "[1]", "[]"),
    ("assert f(1)[1:] == [2]", "[1, 2]", "[1]"), ("assert f(1) == 1 or f(1) == 2", "2", "3"),
    ("assert f(1) and f(2) == [0] * 3", "[0, 0, 0]", "[0]"),
    ("assert list(f(1)) == [0, 1]", "(i for i in range(2))", "(i for i in range(3))"),
    ("assert f(1) == [0, 1]", "[0, 1]", "(i for i in range(2))"), ("assert next(f(1)) == 5", "iter([5])", "iter([])"),
    ("assert isinstance(f(1), list)", "[]", "()"), ("assert re.match('a+$', f(1))", "'aa'", "'ab'"),
    ("assert f(1).upper() == 'A'", "'a'", "'b'"), ("assert f(f(1))[0] == 1", "[1]", "[2]"),
    ("assert f(1) == float('inf')", "1e999", "1"), ("assert f(1) == 10**20", "100 * 10**18", "0"),
    ("assert f(*[1], **{}) == {1: {2}}", "{1: {2}}", "{1: [2]}"), ("assert f(1) == list(range(3))", "[0, 1, 2]", "range(3)"),
    ("assert f(lambda x: x) == 1", "1", "2"), ("assert f(1) == sys.getsizeof((1, 'a'))", "56", "0"),
    ("assert f(1) == '%'", "'%'", "'x'"), ("assert tuple(zip(f(1), f(2))) == ((1, 1),)", "[1]", "[2]"),
    ("assert f(1) == -2 ** 3", "-8", "8")])
def test_asserts_around_the_values(test, right, wrong):
    assert judge(f"def f(x): return {right}", [test]) == (True, "right")
    assert not judge(f"def f(x): return {wrong}", [test]).correct


def test_a_function_that_shadows_a_builtin_and_aliases_of_the_setup():
    assert judge("def sum(a, b): return 6", ["assert sum(10, 15) == 6"]).correct
    assert judge("def f(x): return 'x'", ["assert sum(10, 15) == 25"]).reason.startswith("raised: TypeError")
    assert judge("def f(x): return .5", ["assert isclose(f(1), .5)", "assert m.isclose(f(1), .5)"],
            "from math import isclose\nimport math as m").correct
    assert judge("class Q:\n    def size(self): return 3", ["assert q.size() == 3"], "q = Q()").correct


@pytest.mark.parametrize("test, message", [
    ("", "is not"), ("x = f(1)", "is not an assert"), ("assert f(1) == (", "is not one assert"),
    ("assert f(1); assert f(2)", "is not one assert"), ("assert 1 == 1", "has no call"), ("assert f", "holds 'f'"),
    ("assert f(1) == x", "holds 'x'"), ("assert np.allclose(f(1), 2)", "holds 'numpy.allclose'"),
    ("assert check(f(1), 2)", "holds 'check'"), ("assert [f(i) for i in range(3)] == [1]", "ListComp"),
    ("assert ().__class__ == f(1)", "holds '().__class__'"),
    ("assert open('/etc/passwd').read() == f(1)", "holds \"open('/etc/passwd').read\""),
    ("assert __import__('os').system('true') == f(1)", "holds"), ("assert f(1) == f'{x}'", "JoinedStr"),
    ("assert (x := f(1))", "NamedExpr"), ("assert exec('1') == f(1)", "holds 'exec'"),
    ("assert f(1) == " + "(" * 500 + "1" + ")" * 500, "is not one assert"),
    ("assert f(1) == " + "-" * 50_000 + "1", "is not one assert"), ("assert f(1) == 'a\0'", "is not one assert"),
    ("assert eval('f(1)')", "holds 'eval'"), ("assert isinstance(1, int)", "has no call"),
    ("assert f(1) == __builtins__", "holds '__builtins__'")])
def test_a_test_that_cannot_be_used_is_an_error_of_the_data(test, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        judge("def f(x): return 1", ["assert f(1) == 1", test], "import numpy as np\ndef check(a, b): return a == b")
    assert str(caught.value).startswith("test 2, ") and len(str(caught.value)) < 300
    with pytest.raises(InputError, match="should be a list with an assert in it"):
        judge(F, [])
    with pytest.raises(InputError, match="its setup is not Python"):
        judge(F, TESTS, "def")


@pytest.mark.parametrize("test, value", [
    ("assert f(1) * [0] == 1", "10**12"), ("assert 'a' * f(1) == 1", "10**12"), ("assert f(1) ** f(1) == 1", "10**9"),
    ("assert 9 ** f(1) == 1", "10**12"), ("assert 1 << f(1) == 1", "10**12"), ("assert f(1) % 5 == 1", "'%1000000000000d'"),
    ("assert list(range(f(1))) == 1", "10**15"), ("assert set(f(1)) == 1", "[i * (2**61 - 1) for i in range(9990)]"),
    ("assert 0.5 in f(1)", "range(10**9)"), ("assert re.match('(a*)*b', f(1))", "'a' * 10**5"),
    ("assert str(f(1)) == 1", "10**50000"), ("assert f(1) * f(1) == 1", "10**50000")])
def test_hostile_values_do_not_keep_the_judge_busy(test, value):
    with deadline(60):
        assert not judge(f"def f(x): return {value}", [test]).correct


# -- MBPP: each reference is right for its own tests, and wrong for another's ---------------------------------------------

FOLDERS = [Path(os.environ["S3FT_DATA"]) / "mbpp"] if "S3FT_DATA" in os.environ else []
FOLDERS += [ROOT / "data" / "mbpp"]


@pytest.fixture(scope="module")
def mbpp():
    path = next((folder / "mbpp.jsonl" for folder in FOLDERS if (folder / "mbpp.jsonl").exists()), None)
    if path is None:
        pytest.skip(f"no mbpp.jsonl in {', '.join(map(str, FOLDERS))}; set S3FT_DATA or run data/fetch.py")
    return [row for _, row in read_jsonl(path)]


def judge_row(pair):
    program, row = pair
    return judge(program, row["test_list"] + row["challenge_test_list"], row["test_setup_code"])


def in_parallel(pairs):
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(judge_row, pairs))


def test_every_reference_of_mbpp_is_accepted(mbpp):
    assert len(mbpp) == 974
    verdicts = in_parallel([(row["code"], row) for row in mbpp])
    assert [(row["task_id"], verdict) for row, verdict in zip(mbpp, verdicts) if not verdict.correct] == []


def name_tested(row):
    """The name of the function that a row's tests call."""
    return next(node.func.id for node in ast.walk(ast.parse(row["test_list"][0])) if isinstance(node, ast.Call) and
                re.search(rf"def\s+{re.escape(getattr(node.func, 'id', '-'))}\b", row["code"]))


def test_no_reference_of_mbpp_is_accepted_for_another_problem(mbpp):
    """500 pairs as they are, and 200 with the function renamed, so that it is called and its value compared."""
    draw = random.Random(0)
    pairs = [draw.sample(mbpp, 2) for _ in range(500)]
    assert [(a["task_id"], b["task_id"]) for (a, b),
            verdict in zip(pairs, in_parallel([(a["code"], b) for a, b in pairs])) if verdict.correct] == []
    pairs = [(f"{a['code']}\n{name_tested(b)} = {name_tested(a)}\n", b) for a, b in pairs[:200]]
    assert [(program, row["task_id"]) for (program, row), verdict in zip(pairs, in_parallel(pairs)) if verdict.correct] == []


def test_a_reference_that_answers_one_test_only_is_wrong(mbpp):
    """Hard-coding the first assert, the one that a prompt shows, does not pass, save where all asserts expect the same."""
    draw, pairs = random.Random(1), []
    for row in draw.sample(mbpp, 60):
        expected = [ast.parse(test.strip()).body[0].test for test in row["test_list"]]
        values = [ast.unparse(side.comparators[0]) for side in expected if isinstance(side, ast.Compare)]
        if len(values) == len(expected) and all(re.fullmatch(r"-?[\w.]+|[\[({'\"].*", value,
                re.S) for value in values) and len(set(values)) > 1:
            pairs.append((f"def {name_tested(row)}(*args): return {values[0]}", row))
    verdicts = in_parallel(pairs)
    assert len(pairs) > 30 and not [pair for pair, verdict in zip(pairs, verdicts) if verdict.correct]


# -- Command line ---------------------------------------------------------------------------------------------------------

def judges_py(*args, **kwargs):
    return subprocess.run([
        sys.executable, str(ROOT / "judges.py"), "code", *map(str, args)], capture_output=True, text=True, timeout=60, **kwargs)


ROW = {"response": F, "tests": TESTS}


@strong
def test_command_line(tmp_path):
    rows = [
        {**ROW, "correct": True}, {**ROW, "response": "sleep", "correct": False}, {**ROW, "setup": "y = 1"},
        {**ROW, "tests": ["assert f(y) == 2"], "setup": "y = 1", "correct": False}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    result = judges_py(tmp_path / "rows.jsonl")
    assert result.returncode == 0 and [json.loads(line)["correct"] for line in result.stdout.splitlines()] == [
        True, False, True, True]
    assert result.stderr.splitlines() == [f"programs run under {', '.join(ON)}",
            "3 rows, 2 agreements, 1 false accepts, 0 false rejects"]
    assert judges_py("-", input=text).stdout == result.stdout


@strong
@pytest.mark.parametrize("row, message", [
    ({"response": F}, '"tests" should be a list of texts'),
    ({**ROW, "tests": "assert f(1)"}, '"tests" should be a list of texts'), ({**ROW, "tests": [1]}, '"tests" should be'),
    ({**ROW, "tests": []}, '"tests" should be a list with'), ({**ROW, "setup": None}, '"setup" should be a text'),
    ({**ROW, "tests": ["assert 1"]}, "test 1, 'assert 1', has no call")])
def test_command_line_names_the_row_to_mend(tmp_path, row, message):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n\n" + json.dumps(row) + "\n")
    result = judges_py(tmp_path / "rows.jsonl")
    assert result.returncode == 2 and f"rows.jsonl:3: {message}" in result.stderr.splitlines()[-1]


def test_command_line_refuses_or_is_told(tmp_path):
    """In a process where no layer starts, as on another machine."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    source = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sandbox, judges; sandbox.layers = lambda: ['rlimits']\n"
              "try: judges.main()\nexcept judges.InputError as e: sys.exit(str(e))")
    args = [sys.executable, "-c", source, "code", str(tmp_path / "rows.jsonl")]
    refused = subprocess.run(args, capture_output=True, text=True)
    assert refused.returncode == 1 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert "--unsafe-code" in refused.stderr
    told = subprocess.run([*args, "--unsafe-code"], capture_output=True, text=True)
    assert told.returncode == 0 and json.loads(told.stdout) == {"correct": True,
            "reason": "right"} and told.stderr == "programs run under rlimits\n"
