"""sandbox.py: hostile programs (hostile.py) gain nothing, honest ones give their values."""

import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
import pytest

import sandbox
from files import InputError

ROOT = Path(sandbox.__file__).parent
SECCOMP = ["rlimits", "seccomp"]
try:
    ON = sandbox.require()
except InputError:
    ON = ["rlimits"]
strong = pytest.mark.skipif("seccomp" not in ON, reason="no seccomp here")
landlock = pytest.mark.skipif("landlock" not in ON, reason="no Landlock here")


def run(code, *calls, setup="", cpu_seconds=10):
    return sandbox.start(ON, cpu_seconds, code, setup, list(calls))


# Attacks


@pytest.fixture
def world(tmp_path, monkeypatch):
    """(Names for hostile.py, an account of what an attack could change.)"""
    canary = tmp_path / "canary"
    canary.write_text("secret")
    canary.chmod(0o666)
    tmp_path.chmod(0o777)
    monkeypatch.setenv("S3FT_SECRET", "1")
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    tcp, udp = socket.socket(), socket.socket(type=datagram)
    unix = [socket.socket(socket.AF_UNIX, kind) for kind in (stream, stream, datagram)]
    names = {"CANARY": canary, "FOLDER": tmp_path, "PROJECT": ROOT, "CALLER": os.getpid()}
    for name, opened in ("TCP", tcp), ("UDP", udp):
        opened.bind(("127.0.0.1", 0))
        _, names[name] = opened.getsockname()
    unix[0].bind(str(tmp_path / "socket"))
    unix[1].bind(f"\0s3ft-{names['TCP']}")
    unix[2].bind(f"\0s3ft-{names['UDP']}")
    for opened in tcp, unix[0], unix[1]:
        opened.listen()

    def account():
        stats = [os.stat(path) for path in (canary, tmp_path, os.__file__)]
        return (
            canary.read_text(),
            sorted(os.listdir(tmp_path)),
            [(s.st_mode, s.st_uid, s.st_mtime_ns, s.st_ctime_ns) for s in stats],
            os.getpriority(os.PRIO_PROCESS, 0),
            os.path.exists("/dev/shm/s3ft-taken"),
            children(os.getpid()),
        )

    yield names, account
    for opened in tcp, udp, *unix:
        opened.close()


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return " ".join(path.read_text() for path in tasks).split()


def tried(attacks, layers, names):
    """{name: has the attack succeeded} under these layers."""
    bodies = {}
    for name, body in attacks.items():
        bodies[name] = re.sub("@([A-Z]+)@", lambda found: str(names[found[1]]), body)
    call = f"{{name: attempt(body) for name, body in {bodies!r}.items()}}"
    values, reason = sandbox.start(layers, 10, hostile.ATTEMPT, "", [call])
    assert reason == ""
    return values[0]


@strong
@pytest.mark.parametrize("layers", [SECCOMP, ON], ids="-".join)
def test_no_attack_succeeds(world, layers):
    names, account = world
    before = account()
    assert tried(hostile.ATTACKS, layers, names) == dict.fromkeys(hostile.ATTACKS, False)
    assert account() == before


@landlock
def test_landlock_hides_files_and_seccomp_does_not(world):
    names, _ = world
    assert tried(hostile.READS, ON, names) == dict.fromkeys(hostile.READS, False)
    assert tried(hostile.READS, SECCOMP, names) == dict.fromkeys(hostile.READS, True)


@strong
def test_attacks_succeed_without_layers(world):
    """The tests above can fail."""
    names, account = world
    before = account()
    harmless = {name: hostile.ATTACKS[name] for name in hostile.HARMLESS}
    assert tried(harmless, ["rlimits"], names) == dict.fromkeys(harmless, True)
    assert account() != before


@strong
def test_32_bit_system_calls_are_refused():
    """fork by int 0x80: its number is another call's among the 64-bit ones."""
    code = hostile.ATTEMPT + (
        "import mmap\npage = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('53b802000000cd805bc3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "fork = ctypes.CFUNCTYPE(ctypes.c_int)(address)"
    )
    assert run(code, "attempt('assert X86; forks(fork())')").values in ([False], None)


@strong
def test_nothing_is_inherited():
    code = "import os, stat\ndef kind(fd):\n    try: return stat.S_IFMT(os.fstat(fd).st_mode)\n"
    code += "    except OSError: return None"
    with open(ROOT / "sandbox.py") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        kinds, environment, folder = run(
            code, "[kind(fd) for fd in range(64)]", "sorted(os.environ)", "os.getcwd()"
        ).values
    device, pipe = 0o020000, 0o010000  # /dev/null, and where the values go
    assert [kind for kind in kinds if kind] == [device, device, device, pipe, device]
    assert set(environment) <= {"LC_CTYPE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONHASHSEED"}
    assert folder == "/"


# Forgeries


@strong
def test_no_forgery_is_believed():
    def attempt(code):
        return run(code, "f(3)", "f(4)", cpu_seconds=1)

    with ThreadPoolExecutor(4) as pool:
        results = pool.map(attempt, hostile.FORGERIES.values())
    outcomes = dict(zip(hostile.FORGERIES, results, strict=True))
    for name, (values, reason) in outcomes.items():
        assert values != [1009, [1013, "x"]] and (values is None) == (reason != ""), name
        assert reason.isascii() and reason.isprintable() and len(reason) <= 300, name
    for name, reason in hostile.REASONS.items():
        assert outcomes[name].reason.startswith(reason), (name, outcomes[name])
    assert children(os.getpid()) == []


@pytest.mark.parametrize("code", ["time.sleep(10**6)", "lock.acquire()"])
def test_the_wall_clock_ends_what_uses_no_cpu_time(code, monkeypatch):
    timer = threading.Timer
    monkeypatch.setattr(threading, "Timer", lambda seconds, *rest: timer(seconds / 13, *rest))
    head = "import threading, time\nlock = threading.Lock()\nlock.acquire()\n"
    assert run(head + code, "1", cpu_seconds=1) == (None, "timed out")


FRAMES = b"""true
[]
["str"]
[["str",""]]
[["str",""],true]
[["str",""],NaN]
[["str",""],["eval","1009"]]
[["str",""],["int","0x1"],["int","0x1"]]
[["str",""],["int",[["int","0x1"]]]]
[["str",""],["set",[["list",[]]]]]
[["str",""],["str","zz"]]
\xff""".splitlines()
FRAMES += [b"", b"[" * 200_000, b"[1" + b"0" * 200_000 + b"]", b'["list",[' * 50_000]


def test_a_broken_frame_has_no_values():
    for frame in FRAMES:
        assert sandbox.outcome(frame, 1) == (None, "broken result"), frame[:80]


def test_a_forged_reason_is_one_short_printable_line():
    text = "raised: \n\x1b[2J\u202e\0" * 100
    reason = sandbox.outcome(b'[["str","%s"]]' % text.encode().hex().encode(), 0).reason
    assert reason.startswith("raised: ") and reason.isascii() and reason.isprintable()
    assert len(reason) <= 300


def test_a_forged_frame_holds_plain_data():
    plain = tuple(kind for kind, _, _ in sandbox.TYPES.values())
    frame = b'[["str",""],["list",[["int","0x7"],["dict",[["tuple",[["str","61"],["None",""]]]]]]]]'
    assert sandbox.outcome(frame, 1) == ([[7, {"a": None}]], "")
    parts = b'[ ] " 1 - , null "set" "dict" { e9 \xff'.split()
    draw = random.Random(0)
    for _ in range(3000):
        broken = bytearray(frame)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(broken))
            broken[at : at + draw.randrange(3)] = draw.choice(parts)
        values, reason = sandbox.outcome(bytes(broken), 1)
        assert (values is None) == (reason != "") and reason.isascii() and reason.isprintable()
        assert values is None or isinstance(values[0], plain)


# The machine


def test_refused_without_seccomp(monkeypatch):
    def start(layers, *rest):
        raise OSError("the sandbox did not start: why")

    monkeypatch.setattr(sandbox, "start", start)
    require = sandbox.require.__wrapped__
    with pytest.raises(InputError, match="seccomp .*why.*--unsafe-code") as caught:
        require()
    assert "\n" not in str(caught.value)
    assert require(unsafe=True) == ["rlimits"]


def test_run_asks_for_the_layers(monkeypatch):
    assert sandbox.run("f = 1", "", ["f"], cpu_seconds=5, unsafe="seccomp" not in ON) == ([1], "")
    monkeypatch.setattr(sandbox, "require", lambda unsafe: [f"unsafe: {unsafe}"])
    monkeypatch.setattr(sandbox, "start", lambda *rest: rest)
    assert sandbox.run("f = 1", "g = 2", ["f"]) == (["unsafe: False"], 10, "f = 1", "g = 2", ["f"])


def test_without_landlock_the_layers_say_so(monkeypatch):
    def start(layers, *rest):
        if "landlock" in layers:
            raise OSError("an old kernel")
        return sandbox.Outcome([], "")

    monkeypatch.setattr(sandbox, "start", start)
    assert sandbox.require.__wrapped__() == [*SECCOMP, "no landlock: files can be read"]


def test_unsafe_programs_have_limits(tmp_path):
    for code, reason in [
        ("def f(x): return x + 1", ""),
        ("while True: pass", "timed out"),
        ("v = bytearray(4 * 10**9)", "raised: MemoryError"),
        (f"open({str(tmp_path / 'file')!r}, 'wb', 0).write(b'x')", "raised: OSError: [Errno 27]"),
        ("v = [open('/dev/null') for _ in range(200)]", "raised: OSError: [Errno 24]"),
    ]:
        outcome = sandbox.start(["rlimits"], 1, code, "", [])
        assert outcome.reason.startswith(reason)


@pytest.mark.parametrize("executable, seconds", [("/bin/true", 1), (sys.executable, 0.5)])
def test_a_child_that_does_not_start_is_no_verdict(executable, seconds, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(OSError, match="did not start"):
        sandbox.start(ON, seconds, "", "", [])


@strong
def test_a_killed_caller_takes_its_program_along():
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sandbox; print(flush=True)\n"
    source += "sandbox.start(['rlimits', 'seccomp'], 3600, 'while True: pass', '', [])"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as caller:
        caller.stdout.readline()
        while not children(caller.pid):
            time.sleep(0.05)
        (child,) = children(caller.pid)
        time.sleep(0.5)  # by now it has asked to die with its caller
        caller.kill()
    for _ in range(600):
        if not Path(f"/proc/{child}/exe").exists():  # nor has a zombie one
            return
        time.sleep(0.05)
    pytest.fail("it goes on")


# The filter


def test_numbers_of_the_system_calls():
    """Against the kernel's headers. The numbers of asm-generic are aarch64's."""
    folder = Path("/usr/include")
    headers = [folder / "x86_64-linux-gnu/asm/unistd_64.h", folder / "asm-generic/unistd.h"]
    if not all(header.exists() for header in headers):
        pytest.skip("no kernel headers here")
    pattern = r"#define __NR(?:3264)?_(\w+)\s+(\d+)"
    x86, arm = [dict(re.findall(pattern, header.read_text())) for header in headers]
    arm["newfstatat"] = arm["fstatat"]
    entries = [entry.split() for entry in sandbox.ALLOWED.split(",")]
    assert len({name for name, *_ in entries}) == len(entries)
    for name, number, arm_number, *_ in entries:
        assert number == x86[name] and arm_number in (arm.get(name), "-"), name


def answer(machine, number, *arguments, architecture=None):
    """What the filter of a machine says to a call."""
    program = list(struct.iter_unpack("HBBI", sandbox.seccomp_filter(machine)))
    architecture = architecture or sandbox.MACHINES[machine][1]
    arguments += (0,) * (6 - len(arguments))
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments)
    at = value = 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == sandbox.LOAD:
            value = struct.unpack_from("I", data, operand)[0]
        elif code == sandbox.AND:
            value &= operand
        elif code == sandbox.IF_EQUAL:
            at += yes if value == operand else no
        else:
            return {0x7FFF0000: "permit", 0x50001: "EPERM", 0x50026: "ENOSYS"}[operand]


@pytest.mark.parametrize("machine", sandbox.MACHINES)
def test_the_filter_by_hand(machine):
    column, architecture = sandbox.MACHINES[machine]
    entries = [entry.split() for entry in sandbox.ALLOWED.split(",")]
    in_part = {"open", "openat", "clone", "madvise", "ioctl", "socketpair"}
    numbers = {}
    expected = dict.fromkeys(range(600), "ENOSYS")
    for name, *fields in entries:
        if fields[column - 1] != "-":
            numbers[name] = int(fields[column - 1])
            expected[numbers[name]] = "EPERM" if name in in_part else "permit"
    for number in expected:
        assert answer(machine, number, *[0xFFFFFFFF] * 6) == expected[number], number
        assert answer(machine, number, architecture=architecture ^ 1) == "EPERM"
        assert answer(machine, number | 0x40000000) == "ENOSYS"  # x32

    def permits(name, *arguments):
        return answer(machine, numbers[name], *arguments) == "permit"

    free = [bit for bit in range(32) if permits("openat", 0, 0, 1 << bit)]
    assert free == [8, 11, 14, 15, 16, 17, 19]  # O_NOCTTY, _NONBLOCK, four others, _CLOEXEC
    thread = 0x3D0F00
    assert permits("clone", thread) and permits("clone", thread | 0x400000)
    for flags in [17, thread | 17, thread | 0x10000000, thread & ~0x10000, 0x4100 | 17]:
        assert not permits("clone", flags)
    assert permits("ioctl", 0, 0x5421) and not permits("ioctl", 0, 0x5412)
    assert permits("socketpair", 1) and not permits("socketpair", 2)
    assert permits("madvise", 0, 0, 4) and not permits("madvise", 0, 0, 100)


# Honest programs


def test_honest_programs_give_their_values():
    """All at once, as a judge's threads run them."""
    programs = hostile.HONEST
    if not any((Path(folder) / "numpy").exists() for folder in sys.path):
        programs = {name: code for name, code in programs.items() if "numpy" not in name}
    with ThreadPoolExecutor(8) as pool:
        outcomes = pool.map(lambda code: run(code, "f(1)", "f(-1)"), programs.values())
    outcomes = dict(zip(programs, outcomes, strict=True))
    assert outcomes == dict.fromkeys(programs, ([2, 0], ""))


def test_plain_values_come_back_as_they_were():
    source = """[None, True, -1, 10**300, 1.5, -0.0, 1e999, 1e-320, 1j, "é\\0'", b"\\xff\\0", [[1]],
        ((),), {1}, frozenset({(1, 2)}), {1: "a", (2, 3): [4], None: {5: 6}}, [0] * 9000]"""
    ((back,), reason) = run("", source)
    assert reason == "" and repr(back) == repr(eval(source))


def test_subclasses_are_reduced_to_their_base():
    code = """
import collections
class L(list):
    def __iter__(self): return iter([9])
class I(int):
    def __index__(self): return 5
values = [collections.Counter('aab'), collections.OrderedDict(a=1), L([1]), I(7)]
values.append(collections.namedtuple('P', 'x item')(1, 2))"""
    assert repr(run(code, "values").values[0]) == "[{'a': 2, 'b': 1}, {'a': 1}, [1], 7, (1, 2)]"


def test_anything_else_is_refused():
    for source in ["object()", "print", "int", "bytearray(1)", "[...]", "iter([])", "range(3)"]:
        assert run("", source).reason.startswith("not plain data: ")


def test_calls_run_in_order_in_one_program():
    code = "v = []\ndef f(x):\n    v.append(x)\n    return v"
    assert run(code, "f(1)", "f(2)") == ([[1], [1, 2]], "")
    assert run("class N:\n    def __init__(s, v): s.v = v", "n.v", setup="n = N(7)") == ([7], "")
    assert run("", "1", setup="1 / 0").reason == "raised: ZeroDivisionError: division by zero"
    assert run("def f(x) return x", "1").reason.startswith("syntax error: SyntaxError: ")
    words = "v = {'b', 'a', 'c'}"
    assert run(words, "list(v)") == run(words, "list(v)")  # the order of a set does not change
