"""Runs untrusted Python in a fresh, isolated interpreter, and returns the plain values of the expressions asked for.

    sandbox.run("def f(x): return x + 1", "", ["f(1)", "f(2)"])  ->  Outcome(values=[2, 3], reason="")

A program can always say "I passed": through its exit status, its output, a file, the channel on which its results come. So
none of these carries a verdict here. The program is asked for values, it never sees what they are compared with, and the
caller compares plain builtins rebuilt from text: forging a result buys nothing, for one has to know it (`decode`).

The child is an interpreter without site, environment, or descriptors but its input and its result pipe. Before it reads one
byte of the program it takes its own rights away (`confine`), in layers; `layers()` tests which of them this machine has:

    rlimits      CPU time, memory, size and number of files, no core dumps (getrlimit(2)); always on
    namespaces   user, process, network, ipc and mount (namespaces(7)): the file system is an empty tmpfs of 64 MB on which
                 the interpreter's libraries are mounted read-only. All processes die with the first one
    uid          root becomes nobody, if the interpreter can be read then (without namespaces: not under a /root of mode 0700)
    landlock     no file outside these libraries and the work folder, no execution, no TCP, no signals (landlock(7))
    seccomp      every system call that Python does not need fails with EPERM (seccomp(2)): no process, program, socket,
                 shared memory, trace, mount or signal to others; no chmod, chown and utime either, which Landlock leaves open

NOT covered: what the processor leaks; bugs of the kernel; names, sizes and times of outside files where namespaces are
missing; there also the amount of disk (16 MB a file, but any number of files until the CPU time is up); as root without
the uid layer the number of threads, save by memory. seccomp for aarch64 is written from the kernel's table but was not run.
A child dies with the thread that started it (PR_SET_PDEATHSIG), so call `run` from threads that wait for it.
"""
import _signal as signal  # the part in C: `signal` itself imports enum, 5 ms of the child's 40
import builtins
import ctypes
import marshal
import os
import struct
import sys

if __name__ != "launcher":  # the child is this module too, and does without these
    import functools
    import json
    import select
    import site
    import subprocess
    import sysconfig
    import tempfile
    import time
    from typing import NamedTuple

    from files import InputError

DEPTH, ITEMS, BITS, BYTES = 50, 10_000, 200_000, 2_000_000  # of the values: nesting, number, longest int, length as JSON
MEMORY, DISK, FILES, NOBODY = 1 << 30, 64 << 20, 16 << 20, 65534


# -- The child: takes its rights away, runs the program, encodes values --------------------------------------------------

def child():
    """Standard input: this module's code, the settings, the program. Standard output: "R" when confined, then one frame."""
    settings = marshal.load(sys.stdin.buffer)
    try:
        confine(**settings)
    except BaseException as error:
        os.write(1, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    out = os.dup(1)
    os.write(out, b"R")
    code, setup, calls = marshal.load(sys.stdin.buffer)
    for descriptor in 0, 1:
        os.dup2(2, descriptor)  # /dev/null: input() ends at once, prints go nowhere
    os.environ["TMPDIR"] = os.environ["HOME"] = os.getcwd()
    try:
        text = '[true,[%s]]' % ",".join(evaluate(code, setup, calls))
        if len(text) > BYTES:
            raise Failure("too large: the values as text")
    except Failure as failure:
        text = '[false,%s]' % encode(str(failure)[:300], [0])
    data = memoryview(struct.pack(">Q", len(text)) + text.encode())
    while data:
        data = data[os.write(out, data):]
    os._exit(0)  # no atexit, no __del__, no waiting for threads


class Failure(Exception):
    pass


def evaluate(code, setup, calls):
    """The encoded value of each call, encoded before the next one runs. sys.exit() ends the program, not the evaluation."""
    main = sys.modules["__main__"] = type(sys)("__main__")
    builtins.exit = builtins.quit = sys.exit  # what site would do
    try:
        program = compile(code, "<program>", "exec", dont_inherit=True)
    except BaseException as error:  # SyntaxError; ValueError for NUL; MemoryError and RecursionError for deep nesting
        raise Failure(f"syntax error: {describe(error)}")
    try:
        try:
            exec(program, main.__dict__)
        except SystemExit:
            pass
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), main.__dict__)
        counter = [0]
        return [encode(eval(compile(call, "<test>", "eval", dont_inherit=True), main.__dict__), counter) for call in calls]
    except Failure:
        raise
    except BaseException as error:
        raise Failure(f"raised: {describe(error)}")


def describe(error):
    try:
        return f"{type(error).__name__}: {error}"[:200].rstrip(": ")
    except BaseException:  # a hostile __str__
        return "an exception that cannot be shown"


def encode(x, counter, depth=0):
    """JSON of a plain builtin: null, true, false or [tag, payload], where leaves are strings. Subclasses (Counter, namedtuple,
    numpy.float64, …) are reduced by the base type's own methods, numpy's other scalars by item(). An iterator is its items."""
    counter[0] += 1
    if counter[0] > ITEMS:
        raise Failure(f"too large: more than {ITEMS} values")
    if depth > DEPTH:
        raise Failure(f"too deep: more than {DEPTH} levels")
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(x, numpy.generic) and not isinstance(x, (float, complex, str, bytes)):
        x = x.item()
    if x is None or x is True or x is False:
        return {None: "null", True: "true", False: "false"}[x]
    if isinstance(x, int):
        if int.bit_length(x) > BITS:
            raise Failure(f"too large: an int of more than {BITS} bits")
        return f'["int","{hex(x)}"]'
    if isinstance(x, float):
        return f'["float","{float.hex(x)}"]'
    if isinstance(x, complex):
        return f'["complex",["{float.hex(x.real)}","{float.hex(x.imag)}"]]'
    if isinstance(x, (str, bytes)):
        tag, data = ("bytes", x) if isinstance(x, bytes) else ("str", str.encode(x, "utf-8", "surrogatepass"))
        if len(data) > BYTES:
            raise Failure("too large: a string")
        return f'["{tag}","{bytes.hex(data)}"]'
    for base in list, tuple, set, frozenset, dict, range:
        if isinstance(x, base):
            tag = base.__name__
            items = [part for pair in dict.items(x) for part in pair] if base is dict else base.__iter__(x)
            items = (x.start, x.stop, x.step) if base is range else items
            break
    else:
        if not hasattr(type(x), "__next__"):
            raise Failure(f"not plain data: {type(x).__name__}")
        tag, items = "iterator", x
    return f'["{tag}",[{",".join([encode(item, counter, depth + 1) for item in items])}]]'


# -- Confinement, in the child ---------------------------------------------------------------------------------------------

# System calls that Python, its threads and numpy need: name, number on x86-64 (asm/unistd_64.h), aarch64 (asm-generic/unistd.h).
SYSTEM_CALLS = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70, lseek 8 62,
close 3 57, close_range 436 436, stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, access 21 -,
faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17,
chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, ftruncate 77 46, fallocate 285 47, fsync 74 82,
fdatasync 75 83, statfs 137 43, fstatfs 138 44, fadvise64 221 223, dup 32 23, dup2 33 -, dup3 292 24, flock 73 32, pipe 22 -,
pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21,
epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226,
madvise 28 233, msync 26 227, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, pause 34 -, alarm 37 -,
setitimer 38 103, getitimer 36 102, getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175,
getgid 104 176, getegid 108 177, getgroups 115 158, getresuid 118 148, getresgid 120 150, getpgrp 111 -, getpgid 121 155,
getsid 124 156, umask 95 166, uname 63 160, sysinfo 99 179, getrlimit 97 163, setrlimit 160 164, getrusage 98 165,
times 100 153, time 201 -, gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
nanosleep 35 101, sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168, getpriority 140 141, recvfrom 45 207,
futex 202 98, set_robust_list 273 99, set_tid_address 218 96, rseq 334 293, arch_prctl 158 -, restart_syscall 219 128,
getrandom 318 278, exit 60 93, exit_group 231 94"""
# And those that it needs in part: the same, then the argument, a mask, and the values that are allowed under the mask.
THREAD = 0x100 | 0x800 | 0x10000                                     # CLONE_VM, CLONE_SIGHAND, CLONE_THREAD; no namespaces:
OTHERS = 0x2000 | 0x4000 | 0x20000 | 0x800000 | 0x7E000000 | 0x80    # CLONE_PTRACE, _VFORK, _NEWNS, _UNTRACED, _NEW…
TRUNCATE = 0o1003, [0, 1, 2, 3, 0o1001, 0o1002, 0o1003]              # not O_TRUNC alone, which old Landlocks let pass
IN_PART = lambda pid: [
    ("open", 2, None, 1, *TRUNCATE), ("openat", 257, 56, 2, *TRUNCATE),
    ("clone", 56, 220, 0, THREAD | OTHERS, [THREAD]),
    ("socketpair", 53, 199, 0, 0xFFFFFFFF, [1]), ("sendto", 44, 206, 5, 0xFFFFFFFF, [0]),  # asyncio's: AF_UNIX, to no address
    ("kill", 62, 129, 0, 0xFFFFFFFF, [pid]), ("tgkill", 234, 131, 0, 0xFFFFFFFF, [pid]),
    ("prlimit64", 302, 261, 0, 0xFFFFFFFF, [0, pid]),
    ("prctl", 157, 167, 0, 0xFFFFFFFF, [15, 16]),                    # PR_SET_NAME, PR_GET_NAME
    ("fcntl", 72, 25, 1, 0xFFFFFFFF, [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030]),  # duplicates, flags, locks; no F_SETOWN
    ("ioctl", 16, 29, 1, 0xFFFFFFFF, [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451])]  # isatty, size, FIONREAD, FIO(N)CLEX …
MACHINES = {"x86_64": (0, 0xC000003E, 155), "aarch64": (1, 0xC00000B7, 41)}  # column above, AUDIT_ARCH_…, pivot_root
CLONE3, CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 435, 444, 445, 446  # the same everywhere
EPERM, ENOSYS = 0x50001, 0x50026  # SECCOMP_RET_ERRNO and the error


def confine(layers, cpu_seconds, folder, readable, parent):
    """Each layer that is asked for, or an exception. The work folder becomes the current one."""
    import resource
    limits = {"CPU": cpu_seconds, "AS": MEMORY, "DATA": MEMORY, "FSIZE": FILES, "NOFILE": 128, "CORE": 0, "MEMLOCK": 0,
              "STACK": 64 << 20}  # a recursion of 10**5 calls fits; threads keep the stack size of the interpreter's start
    if sys.platform == "linux":
        call("prctl", 1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)  # it died before
    if "namespaces" in layers:
        folder = enter_namespaces(folder, readable)
        if os.geteuid():
            limits["NPROC"] = 256  # counted in the user namespace; for uid 0 it does nothing
    if "uid" in layers:
        limits["NPROC"] = 1024     # counted for all of nobody's processes
        os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    os.chdir(folder)
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            try:
                resource.setrlimit(kind, (value, value))
            except (OSError, ValueError):
                if sys.platform == "linux":  # macOS has no limit of memory
                    raise
    if sys.platform == "linux":
        call("prctl", 1, signal.SIGKILL)  # again: a change of uid and a fork clear it
        call("prctl", 38, 1, 0, 0, 0)     # PR_SET_NO_NEW_PRIVS
        call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # capabilities(7): none effective, permitted, inheritable
    if "landlock" in layers:
        restrict_files(folder, readable)
    if "seccomp" in layers:
        program = seccomp_filter(os.uname().machine, os.getpid())
        buffer = ctypes.create_string_buffer(program, len(program))
        call("prctl", 22, 2, struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))  # PR_SET_SECCOMP, a filter


def call(name, *args):
    """A function of the C library, by name; OSError where it returns -1. Integers are passed as long."""
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def enter_namespaces(folder, readable):
    """Returns, in a process that is the first of its namespaces, the work folder there. Its parent waits in here to the end."""
    uid, gid = os.geteuid(), os.getegid()
    user = 0x10000000 if uid else 0  # CLONE_NEWUSER; root needs none
    call("unshare", user | 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000)  # mount, uts, ipc, pid, net
    if user:
        for name, text in ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1"):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    first = os.fork()
    if first:
        os.close(1)
        if signal.sigwait(signals) == signal.SIGTERM:  # the caller's word to end it; SIGCHLD: it has ended
            os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        os._exit(0)
    call("prctl", 1, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    bind, private, seal = 0x1000 | 0x4000, 0x40000 | 0x4000, 0x20 | 0x1000 | 1  # mount(2): MS_BIND, _PRIVATE, _REC, _RDONLY …
    call("mount", None, b"/", None, private, None)
    call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=1m,mode=755")
    for path in readable + ["/dev/null", "/dev/urandom"]:
        target = folder + path
        os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
        if not os.path.isdir(path):
            os.close(os.open(target, os.O_CREAT))
        call("mount", os.fsencode(path), os.fsencode(target), None, bind, None)
        locked = os.statvfs(target).f_flag & (2 | 4 | 8)  # nosuid, nodev and noexec of the original have to stay
        call("mount", None, os.fsencode(target), None, seal | locked, None)
    work = "/" + os.path.basename(folder)
    os.mkdir(folder + work)
    call("mount", b"tmpfs", os.fsencode(folder + work), b"tmpfs", 0, f"size={DISK},nr_inodes=10000,mode=755".encode())
    call("mount", None, os.fsencode(folder), None, seal, None)
    os.chdir(folder)
    call("syscall", MACHINES[os.uname().machine][2], b".", b".")  # pivot_root(2), "pivot_root(".", ".")"
    call("umount2", b".", 2)  # MNT_DETACH: the old root
    return work


def restrict_files(folder, readable):
    """landlock(7): read `readable`, write `folder` and /dev/null; nothing else by path, no TCP, signals or abstract sockets."""
    abi = call("syscall", CREATE_RULESET, None, 0, 1)
    rights = (1 << 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)) - 1  # with 2 REFER, 3 TRUNCATE, 5 IOCTL_DEV
    ruleset = call("syscall", CREATE_RULESET, struct.pack("QQQ", rights, 3 * (abi >= 4), 3 * (abi >= 6)), 24, 0)
    execute, write_file, read_file, read_dir, device = 1, 2, 4, 8, 1 << 6 | 1 << 11 | 1 << 15
    rules = {path: read_file | read_dir for path in readable}
    rules |= {"/dev/null": read_file | write_file, "/dev/urandom": read_file, folder: rights & ~(execute | device)}
    for path, allowed in rules.items():
        descriptor = os.open(path, os.O_PATH)
        call("syscall", ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed, descriptor), 0)
        os.close(descriptor)
    call("syscall", RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def seccomp_filter(machine, pid):
    """A classic BPF program (seccomp(2)) that allows SYSTEM_CALLS and IN_PART, fails clone3 with ENOSYS, so that the C library
    falls back to clone, whose flags can be read, and all else with EPERM: x32 and 32-bit calls too, whose numbers mean others."""
    column, architecture, _ = MACHINES[machine]
    load, equal, mask, give = 0x20, 0x15, 0x54, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_ALU|AND|K, BPF_RET|K
    allow, refuse = (give, 0, 0, 0x7FFF0000), (give, 0, 0, EPERM)
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), refuse,  # struct seccomp_data: nr 0, arch 4, args from 16
               (load, 0, 0, 0), (equal, 0, 1, CLONE3), (give, 0, 0, ENOSYS)]
    for entry in SYSTEM_CALLS.split(","):
        number = entry.split()[1 + column]
        if number != "-":
            program += [(equal, 0, 1, int(number)), allow]
    for _, *numbers, argument, bits, values in IN_PART(pid):
        if numbers[column] is not None:  # the low 32 bits of the argument, which is all that the kernel reads of these
            tests = [step for value in values for step in [(equal, 0, 1, value), allow]]
            program += [(equal, 0, 3 + len(tests), numbers[column]), (load, 0, 0, 16 + 8 * argument), (mask, 0, 0, bits),
                        *tests, refuse]
    return b"".join(struct.pack("HBBI", *step) for step in [*program, refuse])


# -- The parent: starts the child, reads the frame, cleans up --------------------------------------------------------------

if __name__ == "launcher":
    child()


class Outcome(NamedTuple):
    values: list | None  # one for each call; None where anything failed
    reason: str          # "", or a stable category, then ": " and the particulars


def run(code, setup, calls, *, cpu_seconds=10, unsafe=False):
    """Run `code`, then `setup`, then evaluate the expressions `calls` in order, in one fresh interpreter as `__main__`.

    cpu_seconds is whole seconds of processor time; the wall clock is a backstop of thrice that and ten seconds. Reasons:
    syntax error, raised, timed out, exited early, not plain data, too large, too deep, broken result. InputError where the
    machine cannot isolate (see `require`); OSError where the child could not be started, which says nothing of the program.
    """
    return start(require(unsafe), code, setup, calls, cpu_seconds)


def require(unsafe=False):
    """The layers that are on. InputError where files or system calls would be open to the program, unless `unsafe`."""
    on = layers()
    if not unsafe and not ("seccomp" in on and ("landlock" in on or "namespaces" in on)):
        raise InputError(f"programs cannot be isolated here (this needs Linux on x86-64 or aarch64 with seccomp, and Landlock or "
                         f"namespaces; on are: {', '.join(on)}); --unsafe-code runs them all the same, with your rights")
    return on


@functools.cache
def layers():
    """The names of the layers that work here, together; each is tried on a small program that has to read all libraries."""
    on = ["rlimits"]
    for layer in "namespaces", "uid", "landlock", "seccomp":
        try:
            if sys.platform == "linux" and (layer != "uid" or os.geteuid() == 0) and sys.maxsize > 1 << 32:
                trial = "import decimal, os, sys; found = [os.listdir(p) != [] for p in sys.path if os.path.isdir(p)]"
                if start([*on, layer], trial, "", ["all(found)"], 10).values == [True]:
                    on.append(layer)
        except OSError:
            pass
    return on


@functools.cache
def libraries():
    """Folders that a program may read: (the system's libraries and the interpreter's, those to append to its sys.path)."""
    packages = [path for path in dict.fromkeys(site.getsitepackages()) if os.path.isdir(path)]
    folders = ["/usr/lib", "/lib", "/lib64", "/usr/lib64", "/usr/share/zoneinfo"]
    for path in os.path.dirname(sysconfig.get_path("stdlib")), os.path.dirname(sysconfig.get_path("platstdlib")), *packages:
        if not any(path == other or path.startswith(other + os.sep) for other in folders):
            folders.append(path)
    return [path for path in folders if os.path.isdir(path)], packages


@functools.cache
def launcher():
    return marshal.dumps(__spec__.loader.get_code(__name__))


def start(on, code, setup, calls, cpu_seconds):
    """`run` with the layers `on`, all of which must hold."""
    readable, packages = libraries()
    folder = tempfile.mkdtemp(prefix="s3ft-")
    boot = (f"import marshal, sys; sys.path[:1] = []; sys.path += {packages!a}\n"
            "exec(marshal.load(sys.stdin.buffer), {'__name__': 'launcher'})")
    settings = {"layers": on, "cpu_seconds": cpu_seconds, "folder": folder, "readable": readable, "parent": os.getpid()}
    environment = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:surrogatepass",
                   "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment |= {name: os.environ[name] for name in ["LD_LIBRARY_PATH"] if name in os.environ}  # may hold libpython
    try:
        with tempfile.TemporaryFile() as stdin:  # a pipe would need a thread to fill it
            stdin.write(launcher() + marshal.dumps(settings) + marshal.dumps((code, setup, calls)))
            stdin.seek(0)
            process = subprocess.Popen([sys.executable, "-S", "-s", "-B", "-c", boot], stdin=stdin, stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL, cwd=folder, env=environment, start_new_session=True)
        return read(process, cpu_seconds, "namespaces" in on)
    finally:
        remove(folder)


def read(process, cpu_seconds, waiting):
    """The Outcome of a child. What it sends is hostile: it is read up to a length and a time, and decoded with caps."""
    data, deadline, size, timed_out = b"", time.monotonic() + 3 * cpu_seconds + 10, None, False
    with process.stdout as pipe:
        try:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            while size is None or len(data) < 9 + size:
                if timed_out := not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                    break
                if not (chunk := os.read(pipe.fileno(), 1 << 16)):
                    break
                data += chunk
                if size is None and len(data) >= 9:
                    size = min(struct.unpack(">Q", data[1:9])[0], BYTES)
        finally:
            if waiting:
                os.kill(process.pid, signal.SIGTERM)  # it kills the first process of the namespaces, thereby all, and waits
            else:
                os.killpg(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = status
    if data[:1] != b"R":
        raise OSError(f"the sandbox did not start: {data[:300].decode('ascii', 'backslashreplace') or 'no answer'}")
    if size is not None and len(data) == 9 + size:
        return decode_frame(data[9:])
    used = usage.ru_utime + usage.ru_stime
    if timed_out or used > 0.5 * cpu_seconds:  # the kernel counts ticks for the limit, but run time for the usage
        return Outcome(None, f"timed out: {used:.0f} s of CPU time")
    return Outcome(None, "exited early")


def decode_frame(data):
    try:
        done, payload = json.loads(data, parse_int=refuse, parse_float=refuse, parse_constant=refuse)
        counter = [0]
        if done is True:
            return Outcome([decode(value, counter) for value in payload], "")
        reason = " ".join(str(decode(payload, counter)).split()).encode("ascii", "backslashreplace").decode()[:300]
        if reason.split(":")[0] in ("syntax error", "raised", "not plain data", "too large", "too deep"):
            return Outcome(None, reason)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, MemoryError):
        pass
    return Outcome(None, "broken result")


def refuse(_):
    raise ValueError("leaves are strings")


def decode(node, counter, depth=0):
    """The plain value of a node of `encode`, under the same caps; ValueError or the like for what `encode` does not write."""
    counter[0] += 1
    if counter[0] > ITEMS or depth > DEPTH:
        raise ValueError("too large")
    if node is None or isinstance(node, bool):
        return node
    tag, payload = node
    if tag == "int":
        if len(payload) > BITS // 4 + 4:
            raise ValueError("too large")
        return int(payload, 16)
    if tag == "float":
        return float.fromhex(payload)
    if tag == "complex":
        return complex(*map(float.fromhex, payload))
    if tag in ("str", "bytes"):
        value = bytes.fromhex(payload)
        return value.decode("utf-8", "surrogatepass") if tag == "str" else value
    items = [decode(item, counter, depth + 1) for item in payload]
    if tag == "dict":
        return dict(zip(items[::2], items[1::2], strict=True))
    if tag == "range":
        value = range(*items)
        if len(value) > ITEMS:  # a later set(…) or sorted(…) walks along it
            raise ValueError("too large")
        return value
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}[tag](items)


def remove(folder):
    """Remove a folder that a program filled. shutil.rmtree fails on folders of mode 0 and on ten thousand nested ones: here each
    subfolder is emptied by moving its own up, so that paths stay short. Links are removed, never followed."""
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry)
                continue
            os.chmod(entry, 0o700)
            for inner in list(os.scandir(entry)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner, 0o700)
                    os.rename(inner, os.path.join(folder, os.urandom(16).hex()))
                else:
                    os.unlink(inner)
            os.rmdir(entry)
    os.rmdir(folder)
