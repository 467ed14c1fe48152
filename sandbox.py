"""Runs untrusted Python in a confined interpreter and returns plain values.

A program can claim success by its exit status, its output or a forged result. So it is asked for
values, never sees the expected ones, and the caller compares. First the child gives up its rights:

    rlimits   bound CPU time, memory and open files; no file can grow (getrlimit(2))
    seccomp   forbids processes, programs, networks, signals and writes (seccomp(2)); required
    landlock  hides all files but Python's libraries (landlock(7)); Linux 5.13 or newer

Not covered: kernel bugs, side channels, names and sizes of files, the number of threads. Without
Landlock a program can read what its user can read. The aarch64 filter was only simulated.
"""

import ctypes
import marshal
import os
import resource
import struct
import sys

if __name__ != "__main__":  # the child does without these, which would double its start
    import functools
    import json
    import subprocess
    import tempfile
    import threading
    from collections import namedtuple

    from files import InputError

MAX_DEPTH, MAX_TEXT = 50, 300_000  # of the values; MBPP's have at most 12,367 characters
LIBRARIES = [f"{sys.base_prefix}/{sys.platlibdir}", "/usr/lib", "/usr/lib64", "/lib", "/lib64"]
# Plain types: (type, writer, reader). Writers are the type's own, so subclasses become plain.
TYPES = {
    "None": (type(None), repr, lambda text: None),
    "bool": (bool, repr, lambda text: text == "True"),
    "int": (int, hex, lambda text: int(text, 16)),
    "float": (float, float.hex, float.fromhex),
    "complex": (complex, complex.__repr__, complex),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "str": (str, lambda text: str.encode(text).hex(), lambda text: bytes.fromhex(text).decode()),
    "list": (list, list.__iter__, list),
    "tuple": (tuple, tuple.__iter__, tuple),
    "dict": (dict, dict.items, dict),
    "set": (set, set.__iter__, set),
    "frozenset": (frozenset, frozenset.__iter__, frozenset),
}


class Failure(Exception): ...  # why a value cannot be returned


def encode(value, depth=0):
    """JSON of a plain value: [name of its type, text or list of its items]."""
    if depth > MAX_DEPTH:
        raise Failure("too deep")
    if type(value).__module__ == "numpy":
        value = value.item()
    for name, (kind, write, _) in TYPES.items():
        if isinstance(value, kind):
            content = write(value)
            if isinstance(content, str):
                return f'["{name}","{content}"]'
            items = [encode(item, depth + 1) for item in content]
            return f'["{name}",[{",".join(items)}]]'
    raise Failure(f"not plain data: {type(value).__name__}")


def decode(node):
    """The value of a parsed JSON node. A forged node gives other plain data, or raises."""
    name, content = node
    if isinstance(content, list):
        content = [decode(item) for item in content]
    _, _, read = TYPES[name]
    return read(content)


def child():
    """Standard input: settings, then the program. Standard output: "R" if confined, then JSON."""
    layers, cpu_seconds, packages = marshal.load(sys.stdin.buffer)
    out, null = os.dup(1), os.open("/dev/null", os.O_RDWR)
    confine(layers, cpu_seconds, packages)
    os.write(out, b"R")  # fails if the caller has ended
    code, setup, calls = marshal.load(sys.stdin.buffer)
    for descriptor in 0, 1, 2:
        os.dup2(null, descriptor)
    sys.path = sys.path[1:] + packages
    module = sys.modules["solution"] = type(sys)("solution")  # so that no main guard runs
    module.exit = module.quit = sys.exit  # as the module site does
    reason, values = "", []
    try:
        try:
            exec(code, module.__dict__)
        except SystemExit:
            pass  # it ends the code, not the calls
        exec(setup, module.__dict__)
        values = [encode(eval(call, module.__dict__)) for call in calls]
    except Failure as failure:
        reason = str(failure)
    except BaseException as error:
        category = "syntax error" if isinstance(error, SyntaxError) else "raised"
        reason = f"{category}: {type(error).__name__}: {error}"
    frame = ",".join([encode(reason[:300]), *values])
    os.write(out, f"[{frame}]".encode())
    os._exit(0)  # runs no atexit handler and waits for no thread


def confine(layers, cpu_seconds, packages):
    """Give up rights for good. Raises if a layer fails: then nothing may run."""
    limits = {"CPU": cpu_seconds, "FSIZE": 0, "CORE": 0}
    if sys.platform == "linux":
        libc("prctl", 1, 9)  # PR_SET_PDEATHSIG, SIGKILL: die with the thread that started this
        limits |= {"AS": 1 << 30, "STACK": 64 << 20, "NOFILE": 128}
    for name, limit in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        limit = min(limit, resource.getrlimit(kind)[1] % (1 << 64))  # -1: none
        resource.setrlimit(kind, (limit, limit))
    if "seccomp" in layers:
        libc("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if "landlock" in layers:  # refuse all rights to files, 0x1FFF, but to read libraries, 4 | 8
            ruleset = libc("syscall", 444, struct.pack("Q", 0x1FFF), 8, 0)  # create_ruleset
            for folder in filter(os.path.isdir, packages + LIBRARIES):
                rule = struct.pack("=Qi", 4 | 8, os.open(folder, os.O_PATH))
                libc("syscall", 445, ruleset, 1, rule, 0)  # add_rule
            libc("syscall", 446, ruleset, 0)  # restrict_self
            os.closerange(ruleset, 128)  # it and the folders
        program = ctypes.create_string_buffer(seccomp_filter(os.uname().machine))
        header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(program))
        libc("prctl", 22, 2, header)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def libc(name, *arguments):
    """Call the C library; integers are passed as long. OSError if it returns -1."""
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*longs)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


# Allowed system calls: name, number on x86-64, number on aarch64; for some also an argument, which
# of its low 32 bits are free, and what the others have to be:
#   open, openat: O_RDONLY; free are O_NOCTTY, _NONBLOCK, _CLOEXEC, _DIRECT, _LARGEFILE, _DIRECTORY
#   and _NOFOLLOW of both machines. clone: as by pthread_create; CLONE_DETACHED is musl's
#   madvise: no MADV_HWPOISON. ioctl, socketpair: FIONBIO and AF_UNIX, for asyncio
ALLOWED = """
    read 0 63, pread64 17 67, write 1 64, lseek 8 62, close 3 57, dup2 33 -, dup3 292 24,
    open 2 - 1 0o2744400 0, openat 257 56 2 0o2744400 0, getdents64 217 61, getcwd 79 17,
    stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, readlink 89 -, readlinkat 267 78,
    mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233 2 31 0, brk 12 214,
    clone 56 220 0 0x400000 0x3D0F00, futex 202 98, set_robust_list 273 99, rseq 334 293,
    sched_yield 24 124, sched_getaffinity 204 123, gettid 186 178, exit 60 93, exit_group 231 94,
    rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, restart_syscall 219 128,
    select 23 -, pselect6 270 72, clock_nanosleep 230 115, clock_gettime 228 113,
    getrandom 318 278, uname 63 160, getpid 39 172, epoll_create1 291 20, epoll_ctl 233 21,
    epoll_wait 232 -, epoll_pwait 281 22, ioctl 16 29 1 0 0x5421, socketpair 53 199 0 0 1"""
MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}  # column, AUDIT_ARCH_…
# (Instruction, skip if equal, skip if not, operand). At 0: number, at 4: machine, at 16: arguments
LOAD, AND, IF_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
PERMIT = (RETURN, 0, 0, 0x7FFF0000)
REFUSE = (RETURN, 0, 0, 0x50001)  # EPERM
ABSENT = (RETURN, 0, 0, 0x50026)  # ENOSYS: the C library falls back, from clone3 to clone


def seccomp_filter(machine):
    """The filter as a classic BPF program, seccomp(2). What it does not name fails with ENOSYS."""
    column, architecture = MACHINES[machine]
    program = [(LOAD, 0, 0, 4), (IF_EQUAL, 1, 0, architecture), REFUSE, (LOAD, 0, 0, 0)]
    for entry in ALLOWED.split(","):
        fields = entry.split()
        if fields[column] != "-":
            argument, free, value = [int(field, 0) for field in fields[3:]] or (0, -1, 0)
            program += [
                (IF_EQUAL, 0, 5, int(fields[column])),
                (LOAD, 0, 0, 16 + 8 * argument),
                (AND, 0, 0, ~free & 0xFFFFFFFF),
                (IF_EQUAL, 0, 1, value),
                PERMIT,
                REFUSE,
            ]
    return b"".join(struct.pack("HBBI", *step) for step in [*program, ABSENT])


if __name__ == "__main__":
    child()

Outcome = namedtuple("Outcome", ["values", "reason"])  # values: one for each call, None if reason


def run(code, setup, calls, *, cpu_seconds=10, unsafe=False):
    """Run `code`, then `setup`, then evaluate each expression of `calls`, in a new interpreter.

    cpu_seconds: an int; the wall clock stops at three times that and ten seconds. Reasons: "syntax
    error: …", "raised: …", "not plain data: …", "too deep", "too large", "timed out", "exited
    early", "broken result". OSError: the child did not start, which tells nothing of the program.
    """
    return start(require(unsafe), cpu_seconds, code, setup, calls)


@functools.cache
def require(unsafe=False):
    """Names of the layers that hold here. InputError without seccomp, unless `unsafe`."""
    for last in "landlock", "no landlock: files can be read":
        layers = ["rlimits", "seccomp", last]
        try:
            fault = start(layers, 10, "import decimal", "", []).reason
        except OSError as error:
            fault = error
        if not fault:
            return layers
    if unsafe:
        return ["rlimits"]
    mend = "use Linux on x86-64 or aarch64, or --unsafe-code to run them with your rights"
    raise InputError(f"programs cannot be isolated by seccomp ({fault}); {mend}")


def start(layers, cpu_seconds, *program):
    """The Outcome of a program, (code, setup, calls), under exactly these layers."""
    packages = [folder for folder in sys.path if folder.endswith("-packages")]
    environment = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    environment["LD_LIBRARY_PATH"] = os.environ.get("LD_LIBRARY_PATH", "")  # may hold libpython
    with tempfile.TemporaryFile() as stdin:
        stdin.write(marshal.dumps((layers, cpu_seconds, packages)) + marshal.dumps(program))
        stdin.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-S", __file__],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    timer = threading.Timer(3 * cpu_seconds + 10, os.killpg, (process.pid, 9))
    with process:
        timer.start()
        try:
            data = process.stdout.read(MAX_TEXT + 1)
        finally:
            timer.cancel()
            process.kill()
    if not data.startswith(b"R"):
        raise OSError(f"the sandbox did not start: {data.splitlines()[-1:]}")
    if data == b"R":
        return Outcome(None, "timed out" if process.returncode == -9 else "exited early")
    if len(data) > MAX_TEXT:
        return Outcome(None, "too large")
    return outcome(data[1:], len(program[2]))


def outcome(frame, count):
    """The Outcome that a frame holds. The frame is hostile text."""
    try:
        reason, *values = [decode(node) for node in json.loads(frame)]
        reason = ascii(reason)[1:-1][:300]
    except Exception:  # of any kind: `child` did not write this
        return Outcome(None, "broken result")
    if reason == "" and len(values) == count:
        return Outcome(values, "")
    return Outcome(None, reason or "broken result")
