"""Programs that attack the judge `code` (FORGERIES) or the machine that it runs on (ATTACKS); one idea each, all of our making.

A forgery is judged against `f(3) == 1009` and `f(4) == [1013, "x"]`, values that it cannot know. An attack's `attack()` says
whether it has succeeded, as far as it can tell from inside. A line `#: name` begins a program. @NAME@ is filled in: here by the
helpers below, by test_sandbox.py @CANARY@, a file with a secret outside the work folder, writable by all; @FOLDER@, its folder;
@PARENT@, the judge's process id; @TCP@ and @UDP@, ports that someone listens on; @UNIX@, a socket in @FOLDER@; @SOURCE@,
judges.py; @SITE@, the site-packages.
"""
import re

HELPERS = {
    "@FRAME@": r"""  # what the launcher would send: the program finds the descriptor and speaks in its place
import os, struct
def frame(text):
    text = text if isinstance(text, bytes) else text.encode()
    for fd in range(1, 32):
        try:
            os.write(fd, struct.pack(">Q", len(text)) + text)
        except OSError:
            pass
""", "@ALWAYS@": r"""
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __contains__(self, x): return True
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __getitem__(self, i): return self
    def __float__(self): return 1009.0
    def __index__(self): return 1009 - 1
""", "@SYSCALL@": r"""
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == 'x86_64'
def syscall(x86, arm, *args):
    return libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in (x86 if X86 else arm, *args)))
"""}


def programs(text):
    for name, helper in HELPERS.items():
        text = text.replace(name, helper)
    names, bodies = re.findall("(?m)^#: (.*)$", text), re.split("(?m)^#: .*$", text)[1:]
    assert len(names) == len(set(names)) == len(bodies)
    return dict(zip(names, bodies))


def attempt(body):
    """An attack that has succeeded if its body runs to the end."""
    return "import os, socket\ndef attack():\n    try:\n" + re.sub("(?m)^", "        ", body.strip()) + """
    except (OSError, AttributeError, ImportError, ValueError):
        return False
    return True"""


def by_number(x86, arm, *args):
    """An attack that is one system call."""
    return f"{HELPERS['@SYSCALL@']}\ndef attack(): return syscall({x86}, {arm}, {', '.join(args)}) >= 0"


FORGERIES = programs(r'''
# -- ends before the tests
#: sys.exit
import sys
sys.exit(0)
#: raise SystemExit
raise SystemExit(0)
#: os._exit
import os
os._exit(0)
#: exit in the call
def f(x):
    import sys
    sys.exit(0)
#: os._exit in the call
def f(x):
    import os
    os._exit(0)
#: atexit
import atexit, os
atexit.register(os._exit, 0)
def f(x): raise SystemExit(0)
#: exit from a thread
import os, threading, time
threading.Timer(0.05, os._exit, (0,)).start()
def f(x): time.sleep(5)
#: abort
import os
os.abort()
#: kills itself
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
import time
time.sleep(0.1)
#: alarm
import signal, time
signal.setitimer(signal.ITIMER_REAL, 0.05)
def f(x): time.sleep(1)
#: segmentation fault
import ctypes
def f(x): ctypes.string_at(0)

# -- says so
#: prints a verdict
print('{"correct": true, "reason": "right"}')
print('right')
print('1 passed')
#: writes a verdict to all descriptors
import os
for fd in range(32):
    try: os.write(fd, b'right\nR')
    except OSError: pass
#: frame: two trues
@FRAME@
frame('[true,[true,true]]')
os._exit(0)
#: frame: no values
@FRAME@
frame('[true,[]]')
os._exit(0)
#: frame: true
@FRAME@
frame('true')
os._exit(0)
#: frame: an object
@FRAME@
frame('{"correct": true}')
os._exit(0)
#: frame: ready again
@FRAME@
frame('R[true,[null,null]]')
os._exit(0)
#: frame: NaN and 1e999
@FRAME@
frame('[true,[NaN,1e999]]')
os._exit(0)
#: frame: a long number
@FRAME@
frame('[true,[' + '1' * 10**6 + ',2]]')
os._exit(0)
#: frame: a long int
@FRAME@
frame('[true,[["int","0x' + 'f' * 10**6 + '"],["int","0x1"]]]')
os._exit(0)
#: frame: nested
@FRAME@
frame('[' * 10**6)
os._exit(0)
#: frame: nested lists
@FRAME@
frame('[true,[' + '["list",[' * 10**5 + ']]' * 10**5 + ']]')
os._exit(0)
#: frame: a million nulls
@FRAME@
frame('[true,[["list",[' + 'null,' * 300000 + 'null]],null]]')
os._exit(0)
#: frame: unhashable
@FRAME@
frame('[true,[["set",[["list",[]]]],null]]')
os._exit(0)
#: frame: half a dict
@FRAME@
frame('[true,[["dict",[null]],null]]')
os._exit(0)
#: frame: another tag
@FRAME@
frame('[true,[["eval","1009"],["__import__","os"]]]')
os._exit(0)
#: frame: range without end
@FRAME@
frame('[true,[["range",[["int","0x0"],["int","0x' + 'f' * 40 + '"],["int","0x1"]]],null]]')
os._exit(0)
#: frame: bad text
@FRAME@
frame(b'[true,[["str","ff"],["str","zz"]]]\xff\x00')
os._exit(0)
#: frame: a failure named right
@FRAME@
frame('[false,["str","7269676874"]]')
os._exit(0)
#: frame: length without end
import os
for fd in range(1, 32):
    try: os.write(fd, b'\xff' * 8 + b'[' * 10**5)
    except OSError: pass
#: a thread that writes beside
@FRAME@
import threading
def go():
    while True: frame('[true,[true,true]]')
threading.Thread(target=go, daemon=True).start()
def f(x): return True
#: closes all descriptors
import os
os.closerange(0, 256)
def f(x): return True

# -- values that equal everything
#: equals everything
@ALWAYS@
def f(x): return Always()
#: an int that does
class I(int):
    def __eq__(s, o): return True
    __hash__ = int.__hash__
def f(x): return I(1)
#: a str that does
class S(str):
    def __eq__(s, o): return True
    __hash__ = str.__hash__
def f(x): return S('1009')
#: a float that does
class F(float):
    def __eq__(s, o): return True
    def hex(s): return '0x1.f88p+9'
def f(x): return F(1)
#: a list that does
class L(list):
    def __eq__(s, o): return True
    def __iter__(s): return iter([1009])
def f(x): return L()
#: a dict that does
class D(dict):
    def __eq__(s, o): return True
    def items(s): return [(1009, 1009)]
def f(x): return D()
#: a set that does
class S(set):
    def __eq__(s, o): return True
def f(x): return S()
#: a tuple that does
class T(tuple):
    def __eq__(s, o): return True
def f(x): return T()
#: a class that does
class M(type):
    def __eq__(s, o): return True
    __hash__ = type.__hash__
class C(metaclass=M): pass
def f(x): return C
#: says that it is an int
@ALWAYS@
class I(Always):
    __class__ = int
def f(x): return I()
#: says so through its metaclass
class M(type):
    def __instancecheck__(s, o): return True
    def mro(s): return [s, object]
class C(metaclass=M): pass
def f(x): return C()
#: looks like numpy
@ALWAYS@
import sys, types
m = types.ModuleType('numpy')
class generic(Always):
    def item(s): return s
m.generic = generic
sys.modules['numpy'] = m
def f(x): return generic()
#: not a number
def f(x): return float('nan')
#: an iterator
def f(x):
    while True: yield True
#: NotImplemented
def f(x): return NotImplemented
#: an exception
def f(x): return AssertionError()

# -- replaces what the launcher may use
#: shadows builtins
isinstance = len = set = list = print = compile = eval = exec = type = lambda *a: True
def f(x): return object()
#: replaces builtins
@ALWAYS@
import builtins
for n in 'isinstance hex len next hasattr'.split(): setattr(builtins, n, lambda *a: True)
def f(x): return Always()
#: replaces eval
@ALWAYS@
import builtins
builtins.eval = lambda *a, **k: True
builtins.compile = lambda *a, **k: 'True'
def f(x): return 1
#: replaces json, struct and marshal
import json, struct, marshal, sys
for m in json, struct, marshal:
    for n in dir(m):
        if n[0] != '_': setattr(m, n, lambda *a, **k: b'')
def f(x): return True
#: replaces os.write
import os
write = os.write
def fake(fd, data): return write(fd, b'[true,[true,true]]')
os.write = fake
def f(x): return True
#: empties sys.modules
import sys
sys.modules.clear()
def f(x): return True
#: replaces __main__
import sys
sys.modules['__main__'] = sys
__name__ = '__right__'
def f(x): return True
#: patches the launcher's frame
import sys
frame = sys._getframe()
while frame:
    for n in list(frame.f_globals):
        if n in ('encode', 'evaluate', 'Failure'): frame.f_globals[n] = lambda *a: 'true'
    frame = frame.f_back
def f(x): return True
#: traces the launcher
import sys
def trace(frame, event, arg):
    frame.f_locals.update(done=True)
    return trace
sys.settrace(trace)
sys.setprofile(trace)
def f(x): return True
#: hooks
import sys
sys.excepthook = sys.unraisablehook = sys.displayhook = lambda *a: None
sys.addaudithook(lambda *a: None)
def f(x): return True

# -- looks for what is expected
#: frames and their locals
import sys
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        found += [v for v in [*frame.f_locals.values(), *frame.f_globals.values()] if v == 1009 or '1009' in str(v)[:10**5]]
        frame = frame.f_back
    return 1009 - 9 if not found else found[0]
#: gc
import gc
def f(x):
    for o in gc.get_objects():
        for v in o if isinstance(o, (list, tuple)) else ():
            if type(v) is int and v in (1000 + 9, 1000 + 13): return v
    return True
#: reads its input again
import os, re
def f(x):
    data = b''
    for fd in range(16):
        try:
            os.lseek(fd, 0, 0)
            data += os.read(fd, 10**6)
        except OSError: pass
    found = re.findall(rb'== *(\d+)', data)
    return int(found[0]) if found else True
#: reads its memory
import re
def f(x):
    for line in open('/proc/self/maps'):
        a, b = (int(v, 16) for v in line.split()[0].split('-'))
        with open('/proc/self/mem', 'rb') as m:
            m.seek(a)
            found = re.findall(rb'f\(3\) == (\d+)', m.read(b - a))
        if found: return int(found[0])
#: the data file
import glob
def f(x): return [open(p).read() for p in glob.glob('/work/**/*.jsonl', recursive=True)] and True
#: imports the judge
import judges
def f(x): return judges.Verdict(True, 'right')
#: waits for the expected value
def f(x):
    class Later(int):
        def __eq__(s, o): return int.__eq__(o, o)
    return Later()

# -- never ends, or is too much (the CPU limit is one second here)
#: loops
while True: pass
#: loops in the call
def f(x):
    while True: pass
#: sleeps
import time
time.sleep(10**6)
#: waits for input
def f(x): return input()
#: waits for a lock
import threading
lock = threading.Lock()
lock.acquire()
lock.acquire()
#: a large power
def f(x): return 9 ** 9 ** 9
#: a slow pattern
import re
def f(x): return bool(re.match('(a+)+$', 'a' * 40 + 'b'))
#: loops in __repr__ and __str__
class E(Exception):
    def __str__(s):
        while True: pass
    __repr__ = __str__
def f(x): raise E
#: loops in __iter__
class L(dict):
    def __iter__(s):
        while True: yield 1
    keys = items = __iter__
def f(x): return L()
#: loops in __hash__
class H(int):
    def __hash__(s):
        while True: pass
def f(x): return {H(): 1}
#: loops in __del__
class D:
    def __del__(s):
        while True: pass
def f(x): return D()
#: loops in a class lookup
class C:
    @property
    def __class__(s):
        while True: pass
def f(x): return C()
#: ignores the CPU limit's signal
import signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass
#: a hostile exception
class M(type):
    __name__ = property(lambda s: 1 / 0)
class E(Exception, metaclass=M): pass
def f(x): raise E
#: a long exception
def f(x): raise ValueError('x' * 10**7 + '\ud800\0\n')
#: a long traceback
def f(x):
    try: return f(x)
    except RecursionError as e:
        for i in range(10**5):
            n = ValueError(i)
            n.__cause__, e = e, n
        raise e
#: a long int
def f(x): return 10 ** 10**6
#: a long string
def f(x): return 'x' * 10**8
#: a long list
def f(x): return [None] * 10**7
#: a shared list
def f(x):
    v = []
    for _ in range(45): v = [v, v]
    return v
#: a deep list
def f(x):
    v = []
    for _ in range(10**5): v = [v]
    return v
#: a cycle
def f(x):
    v = []
    v.append(v)
    return v
#: a cycle of dicts
def f(x):
    v = {}
    v[0] = (v,)
    return v
#: a long range
def f(x): return range(10**18)
#: colliding hashes
def f(x): return {i * (2**61 - 1) for i in range(9000)}
#: recursion without end
import sys
sys.setrecursionlimit(10**9)
def f(x): return [f(x)]
#: recursion in C
import sys
sys.setrecursionlimit(10**9)
class C:
    def __repr__(s): return repr([s])
def f(x): return repr(C())
#: memory
def f(x): return len(bytearray(4 * 10**9))
#: memory, bit by bit
def f(x):
    v = [0]
    while True: v += v
#: output
while True: print('right' * 10**5)
#: errors
import sys
while True: sys.stderr.write('right' * 10**5)
#: threads
import threading, time
threading.stack_size(32768)
while True: threading.Thread(target=time.sleep, args=(99,)).start()
#: forks
import os
while True: os.fork()
#: many descriptors
import os
v = [os.open('/dev/null', 0) for _ in range(10**5)]
''') | {
    "a deep source": "f = " + "(" * 4000 + "1" + ")" * 4000,
    "a deep expression": "f = " + "-" * 9000 + "1",
    "a long source": "x = 1\n" * 200_000,
    "NUL": "def f(x): return 1009\0",
    "a lone surrogate": "def f(x): return 1009 \ud800",
    "lone surrogates in names": "def f(x): raise ValueError('\ud800')\n",
}

ATTEMPTS = programs(r'''
# -- files outside the work folder
#: read a file
open('@CANARY@').read()
#: read the password file
open('/etc/shadow').read()
#: read the judge
open('@SOURCE@').read()
#: read the data
import glob
if not glob.glob('@FOLDER@/*'): raise OSError
#: list a folder
os.listdir('@FOLDER@')
#: list the home folder
os.listdir(os.path.expanduser('~root'))
os.listdir('/root')
#: read the parent's environment
open('/proc/@PARENT@/environ').read()
#: read the parent's memory
open('/proc/@PARENT@/mem', 'rb')
#: read a descriptor of the parent
for fd in range(50):
    if os.path.exists(f'/proc/@PARENT@/fd/{fd}'):
        open(f'/proc/@PARENT@/fd/{fd}')
os.listdir('/proc/@PARENT@/fd')
#: read through a symbolic link
os.symlink('@CANARY@', 'link')
open('link').read()
#: write a file
open('@CANARY@', 'w').write('pwned')
#: append to a file
open('@CANARY@', 'a').write('pwned')
#: truncate a file
os.truncate('@CANARY@', 0)
#: truncate a file by opening it to read
os.open('@CANARY@', os.O_RDONLY | os.O_TRUNC)
#: write through a symbolic link
os.symlink('@CANARY@', 'link2')
open('link2', 'w').write('pwned')
#: write through a hard link
os.link('@CANARY@', 'hard')
open('hard', 'w').write('pwned')
#: new file
open('@FOLDER@/new', 'w').write('pwned')
#: new file in /var/tmp
open('/var/tmp/s3ft-pwned', 'w').write('pwned')
#: new folder
os.mkdir('@FOLDER@/pwned')
#: new symbolic link
os.symlink('x', '@FOLDER@/pwned')
#: new pipe
os.mkfifo('@FOLDER@/pwned')
#: new device
os.mknod('device', 0o20666, os.makedev(1, 1))
#: unlink
os.unlink('@CANARY@')
#: rename
os.rename('@CANARY@', '@CANARY@.pwned')
#: rename into the work folder
os.rename('@CANARY@', 'taken')
#: rename over
open('mine', 'w').close()
os.rename('mine', '@CANARY@')
#: remove a tree
import shutil
shutil.rmtree('@FOLDER@')
#: chmod
os.chmod('@CANARY@', 0o777)
#: fchmod of a library
os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o777)
#: chown
os.chown('@CANARY@', 1, 1)
#: utime
os.utime('@CANARY@', (1, 1))
#: utime of a library
os.utime(os.__file__, (1, 1))
#: setxattr
os.setxattr('@CANARY@', 'user.pwned', b'1')
#: setxattr of a library
os.setxattr(os.__file__, 'user.pwned', b'1')
#: write a library
open(os.__file__, 'a').write('')
#: truncate a library by opening it
os.open(os.path.join('@SITE@', 'pwned-canary'), os.O_RDONLY | os.O_TRUNC)
#: write a .pth file
open('@SITE@/pwned.pth', 'w').write('import os')
#: write sitecustomize
open(os.path.dirname(os.__file__) + '/sitecustomize.py', 'w').write('')
#: write beside the judge
open(os.path.dirname('@SOURCE@') + '/pwned.py', 'w').write('')
#: shared memory file
open('/dev/shm/s3ft-pwned', 'w').write('pwned')
#: terminal
open('/dev/tty', 'w').write('pwned')
#: a large file
with open('large', 'wb') as file:
    for _ in range(1000): file.write(bytes(1 << 20))
#: execute from the work folder
open('run', 'w').write('#!/bin/sh')
os.chmod('run', 0o755)
os.execv('./run', ['run'])
#: chroot
os.chroot('.')
#: change the root by name
os.chdir('/proc/@PARENT@/root')
open('.' + '@CANARY@').read()

# -- processes
#: fork
if os.fork() == 0: os._exit(0)
#: double fork and setsid
import time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(60)
    os._exit(0)
#: system
if os.system('true'): raise OSError
#: subprocess
import subprocess, sys
subprocess.run([sys.executable, '-c', ''], check=True)
#: posix_spawn
os.posix_spawn('/bin/true', ['true'], {})
#: multiprocessing
import multiprocessing
p = multiprocessing.get_context('fork').Process(target=print)
p.start()
#: exec
os.execv('/bin/true', ['true'])
#: the dynamic loader
os.execv('/lib64/ld-linux-x86-64.so.2', ['ld', '/bin/true'])
#: memory as a program
os.memfd_create('x')
#: kill the judge
os.kill(@PARENT@, 9)
#: signal the judge
os.kill(@PARENT@, 0)
#: stop the parent
os.kill(os.getppid() or 10**7, 19)
#: kill all
os.kill(-1, 9)
#: kill the group
os.kill(0, 9)
#: killpg
os.killpg(os.getpgid(0) or 1, 9)
#: pidfd
os.pidfd_open(@PARENT@)
#: signals by F_SETOWN
import fcntl
r, w = os.pipe()
fcntl.fcntl(r, fcntl.F_SETOWN, @PARENT@)
#: setsid
os.setsid()
#: setpgid
os.setpgid(0, 0)
os.setpgid(0, os.getpid())
#: slow the judge
os.setpriority(os.PRIO_PROCESS, @PARENT@, 19)
#: pin the judge
os.sched_setaffinity(@PARENT@, {0})
#: limit the judge
import resource
resource.prlimit(@PARENT@, resource.RLIMIT_NOFILE, (8, 8))
#: raise its limits
import resource
resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
#: become root
os.setuid(0)
os.setresuid(0, 0, 0)
#: change the groups
os.setgroups([0])
#: POSIX shared memory
from multiprocessing import shared_memory
shared_memory.SharedMemory(create=True, size=10)
#: terminal input
import fcntl
fcntl.ioctl(2, 0x5412, b'x')
#: a long pipe
import fcntl
fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)

# -- network
#: TCP
import socket
socket.create_connection(('127.0.0.1', @TCP@), timeout=2).send(b'pwned')
#: TCP version 6
import socket
socket.socket(socket.AF_INET6).bind(('::1', 0))
#: UDP
import socket
socket.socket(type=socket.SOCK_DGRAM).sendto(b'pwned', ('127.0.0.1', @UDP@))
#: listen
import socket
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen()
#: Unix socket
import socket
socket.socket(socket.AF_UNIX).connect('@UNIX@')
#: abstract Unix socket
import socket
socket.socket(socket.AF_UNIX).connect('\0s3ft-@TCP@')
#: abstract address through a pair
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendto(b'pwned', '\0s3ft-udp-@UDP@')
#: address through a pair
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendto(b'pwned', '@UNIX@.udp')
#: pass a descriptor
import socket
a, b = socket.socketpair()
socket.send_fds(a, [b'x'], [0])
#: netlink
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
#: raw packets
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
#: vsock
import socket
socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
#: names
import socket
socket.getaddrinfo('example.org', 80)
''')

CALLS = {  # name: number on x86-64, on aarch64, arguments
    "open_tree": (428, 428, "-100", "b'/'", "1"),
    "name_to_handle_at": (303, 264, "-100", "b'/'", "bytes(200)", "bytes(8)", "0"),
    "inotify": (294, 26, "0"),
    "fanotify": (300, 262, "0", "0"),
    "swapon": (167, 224, "b'@CANARY@'", "0"),
    "acct": (163, 89, "b'@CANARY@'"),
    "tgkill": (234, 131, "@PARENT@", "@PARENT@", "0"),
    "tkill": (200, 130, "@PARENT@", "0"),
    "queue a signal": (129, 138, "@PARENT@", "10", "bytes(128)"),
    "ptrace the judge": (101, 117, "16", "@PARENT@", "0", "0"),
    "ptrace itself": (101, 117, "0", "0", "0", "0"),
    "process_vm_readv": (310, 270, "@PARENT@", "0", "0", "0", "0", "0"),
    "io priority": (251, 30, "1", "@PARENT@", "0"),
    "personality": (135, 92, "0x40000"),
    # the kernel's less trodden parts
    "bpf": (321, 280, "0", "bytes(128)", "128"),
    "perf": (298, 241, "bytes(128)", "0", "-1", "-1", "0"),
    "io_uring": (425, 425, "4", "bytes(120)"),
    "userfaultfd": (323, 282, "1"),
    "keyctl": (250, 219, "0", "-3", "1"),
    "add_key": (248, 217, "b'user'", "b'pwned'", "b'x'", "1", "-3"),
    "System V shared memory": (29, 194, "0", "4096", "0o1600"),
    "System V semaphores": (64, 190, "0", "1", "0o1600"),
    "System V messages": (68, 186, "0", "0o1600"),
    "POSIX messages": (240, 180, "b'pwned'", "0o102", "0o600", "0"),
    "kernel log": (103, 116, "10", "0", "0"),
    "host name": (170, 161, "b'pwned'", "5"),
    "the clock": (227, 112, "0", "bytes(16)"),
    "modules": (175, 105, "b''", "0", "b''"),
    "kexec": (246, 104, "0", "0", "0", "0"),
}

ATTACKS = programs(r'''#: mount
@SYSCALL@
def attack():
    os.makedirs('m', exist_ok=True)
    return libc.mount(b'none', b'm', b'tmpfs', 0, None) == 0
#: unmount
@SYSCALL@
def attack(): return libc.umount2(b'/', 2) == 0 or libc.umount2(b'/usr/lib', 2) == 0
#: bind mount
@SYSCALL@
def attack(): return libc.mount(b'/', b'/tmp', None, 4096, None) == 0
#: vfork
@SYSCALL@
def attack():
    r = syscall(58, 220, 0x4100 if not X86 else 0, 0, 0, 0, 0)
    if r == 0: os._exit(0)
    return r > 0
#: clone
@SYSCALL@
def attack():
    r = syscall(56, 220, 17, 0, 0, 0, 0)
    if r == 0: os._exit(0)
    return r > 0
#: clone3
@SYSCALL@
def attack():
    import struct
    r = syscall(435, 435, struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64)
    if r == 0: os._exit(0)
    return r > 0
#: 32-bit system calls
@SYSCALL@
import mmap
def attack():
    if not X86: return False
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(b"\x53\xb8\x02\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 2 (fork); int 0x80; pop rbx; ret
    fork = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    r = fork()
    if r == 0: os._exit(0)
    return r > 0
#: x32 system calls
@SYSCALL@
def attack():
    r = syscall(0x40000000 + 57, 10**6) if X86 else -1
    if r == 0: os._exit(0)
    return r > 0
#: outlive the parent
@SYSCALL@
def attack(): return libc.prctl(1, 0, 0, 0, 0) == 0
#: become a subreaper
@SYSCALL@
def attack(): return libc.prctl(36, 1, 0, 0, 0) == 0
#: regain capabilities
@SYSCALL@
def attack():
    import struct
    return libc.capset(struct.pack('Ii', 0x20080522, 0), b'\xff' * 24) == 0
#: has capabilities
@SYSCALL@
def attack():
    import struct
    data = ctypes.create_string_buffer(24)
    return syscall(125, 90, struct.pack('Ii', 0x20080522, 0), data) == 0 and any(data.raw)
#: new namespaces
@SYSCALL@
def attack(): return any(libc.unshare(f) == 0 for f in (0x10000000, 0x20000, 0x40000000, 0x20000000))
#: another's namespace
@SYSCALL@
def attack():
    try:
        fd = os.open('/proc/1/ns/mnt', 0)
    except (OSError, AttributeError):
        return False
    return True
#: setns
@SYSCALL@
def attack(): return syscall(308, 268, 0, 0) >= 0
#: another filter
@SYSCALL@
def attack(): return libc.prctl(22, 1, 0, 0, 0) == 0

# -- what is inherited, what outlives
#: environment
import os
def attack(): return 'S3FT_SECRET' in os.environ or 'PATH' in os.environ
#: descriptors
import os, stat
def attack():
    found = []
    for fd in range(3, 1024):
        try: found.append(os.fstat(fd))
        except OSError: pass
    return len(found) != 1 or not stat.S_ISFIFO(found[0].st_mode)
#: its input
import os, stat
def attack(): return not stat.S_ISCHR(os.fstat(0).st_mode)
#: module path
import sys, os
def attack(): return any(os.path.exists(os.path.join(p, 'judges.py')) for p in sys.path) or '' in sys.path
#: a thread that goes on
import threading
def go():
    while True: pass
def attack():
    threading.Thread(target=go).start()
    return False
#: a thread that writes on
import threading
def go():
    while True: open('again', 'w').write('x')
def attack():
    threading.Thread(target=go).start()
    return False
#: ignores all signals
import signal, time
def attack():
    for s in range(1, 65):
        try: signal.signal(s, signal.SIG_IGN)
        except (OSError, ValueError): pass
    while True: pass
#: stops itself
import os, signal, threading
def attack():
    os.kill(os.getpid(), signal.SIGSTOP)
    return False
#: a deep folder
import os
def attack():
    for _ in range(3000):
        os.mkdir('d')
        os.chdir('d')
    return False
#: folders of mode 0
import os
def attack():
    os.makedirs('a/b/c')
    open('a/b/file', 'w').close()
    os.mkdir('a/z', 0)
    os.umask(0o777)
    os.mkdir('y')
    return False
#: a link in place of a folder
import os
def attack():
    os.symlink('@FOLDER@', 'folder')
    os.symlink('folder', 'again')
    os.symlink('.', 'loop')
    return False
#: odd names
import os
def attack():
    for name in (b'\xff', b'a\nb', b'-rf', b'*', b' ', b'x' * 255): open(name, 'w').close()
    return False
#: its folder removed
import os
def attack():
    try: os.rmdir(os.getcwd())
    except OSError: pass
    return False
''')
ATTACKS |= {name: attempt(body) for name, body in ATTEMPTS.items()} | {name: by_number(*call) for name, call in CALLS.items()}

# Those that succeed without the layers and do no harm then: the test that the tests can fail.
HARMLESS = [
    "read a file", "list a folder", "read the judge", "read through a symbolic link", "append to a file", "chmod", "utime",
    "new file", "new folder", "fork", "subprocess", "system", "memory as a program", "signal the judge", "TCP", "UDP",
    "Unix socket", "abstract Unix socket", "abstract address through a pair", "address through a pair", "listen", "inotify",
    "clone", "clone3"]
