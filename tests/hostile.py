"""Programs that attack a judge (FORGERIES) or the machine (ATTACKS, READS), and HONEST ones.

A forgery should give 1009 for f(3) and [1013, "x"] for f(4), values that it cannot know. An attack
has succeeded if the kernel looks at it; all run in one program. test_sandbox.py fills in @NAME@: a
file and its folder, both writable by all, the caller's process id, two ports and the project.
"""

import re

HELPERS = {
    "@FRAME@": r"""
import os
def frame(text):  # finds the result pipe and speaks in the launcher's place
    for fd in range(1, 16):
        try: os.write(fd, text.encode())
        except OSError: pass
""",
    "@ALWAYS@": r"""
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __iter__(self): return iter([self])
""",
}


def programs(text):
    """{name: program} of a text in which `#: name` begins a program."""
    for name, helper in HELPERS.items():
        text = text.replace(name, helper)
    names = re.findall("(?m)^#: (.*)$", text)
    return dict(zip(names, re.split("(?m)^#: .*$", text)[1:], strict=True))


def attacks(text):
    """{name: statements} of lines `name | statements`."""
    lines = [line.split(" | ", 1) for line in text.strip().splitlines()]
    return {name.strip(): body for name, body in lines}


FORGERIES = programs(r"""
# Ends before the calls
#: os._exit
import os
os._exit(0)
#: sys.exit in the call
import sys
def f(x): sys.exit(0)
#: segmentation fault
import ctypes
def f(x): ctypes.string_at(0)
#: prints a verdict
print('{"correct": true, "reason": "right"}', flush=True)
#: frame: true
@FRAME@
frame('[["str",""],true,true]')
os._exit(0)
#: frame: confined again
@FRAME@
frame('R[["str",""],["int","0x1"],["int","0x1"]]')
os._exit(0)
#: a thread that writes beside
@FRAME@
import threading
def go():
    while True: frame('[["str",""],true,true]')
threading.Thread(target=go, daemon=True).start()
def f(x): return True
#: closes all descriptors
import os
os.closerange(0, 256)
def f(x): return True

# Equals everything
#: an object that does
@ALWAYS@
def f(x): return Always()
#: an int that does
class I(int):
    def __eq__(s, o): return True
    def __index__(s): return 1009
    __hash__ = int.__hash__
def f(x): return I(1)
#: a list that does
class L(list):
    def __eq__(s, o): return True
    def __iter__(s): return iter([1013, 'x'])
def f(x): return L()
#: looks like numpy
@ALWAYS@
Always.__module__ = 'numpy'
Always.item = lambda self: self
def f(x): return Always()
#: not a number
def f(x): return float('nan')

# Replaces what the launcher uses
#: shadows builtins
isinstance = len = list = print = compile = eval = exec = type = lambda *a: True
def f(x): return object()
#: replaces os.write and marshal
import marshal, os
write = os.write
os.write = lambda fd, data: write(fd, b'[["str",""],["bool","True"],["bool","True"]]')
marshal.load = marshal.loads = None
def f(x): return 1
#: patches the launcher
import __main__, sys
__main__.encode = lambda *a: '["bool","True"]'
__main__.TYPES.clear()
sys.modules.clear()
def f(x): return 1

# Looks for what is expected
#: frames
import sys
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        found += [v for v in [*frame.f_locals.values(), *frame.f_globals.values()] if v == 1009]
        frame = frame.f_back
    return found[0] if found else 1
#: gc
import gc
def f(x):
    for o in gc.get_objects():
        for v in o if isinstance(o, (list, tuple)) else ():
            if type(v) is int and v in (1000 + 9, 1000 + 13): return v
#: reads its input again
import os, re
def f(x):
    data = b''
    for fd in range(16):
        try: data += os.read(fd, 10**6)
        except OSError: pass
    found = re.findall(rb'\d{4}', data)
    return int(found[0]) if found else 1

# Too much. The limit of CPU time is one second here.
#: loops
while True: pass
#: ignores the limit
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
#: a hostile exception
class E(Exception):
    def __str__(s): raise s
def f(x): raise E
#: a long exception
def f(x): raise ValueError('x' * 10**7 + '\ud800\0\n')
#: a long string
def f(x): return 'x' * 10**6
#: a cycle
def f(x):
    v = {}
    v[0] = (v,)
    return v
#: colliding hashes
def f(x): return {i * (2**61 - 1) for i in range(8000)}
#: recursion in C
import sys
sys.setrecursionlimit(10**9)
class C:
    def __repr__(s): return repr([s])
def f(x): return repr(C())
#: memory
def f(x): return len(bytearray(4 * 10**9))
#: threads
import threading, time
threading.stack_size(32768)
while True: threading.Thread(target=time.sleep, args=(99,)).start()
#: input
def f(x): return input()
#: forks
import os
while True: os.fork()
""") | {
    "a deep source": "f = " + "(" * 4000 + "1" + ")" * 4000,
    "NUL": "def f(x): return 1009\0",
    "a lone surrogate": "def f(x): raise ValueError('\ud800')",
}
REASONS = {
    "os._exit": "exited early",
    "segmentation fault": "exited early",
    "loops": "timed out",
    "ignores the limit": "timed out",
    "frame: true": "broken result",
    "an object that does": "not plain data: Always",
    "a cycle": "too deep",
    "a long string": "too large",
    "memory": "raised: MemoryError",
    "forks": "raised: ",
    "input": "raised: EOFError",
}

# All attacks are tried in one program: attempt(body) says if one has succeeded.
ATTEMPT = r"""
import ctypes, fcntl, os, platform, resource, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == 'x86_64'
def syscall(x86, arm, *args):
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(x86 if X86 else arm, *longs)
    if result == -1 and ctypes.get_errno() in (1, 38): raise OSError('refused')
    return result  # another error: the filter has let it pass
def forks(result):
    if result == 0: os._exit(0)
    if result < 0: raise OSError
def attempt(body):
    try: exec(body, globals())
    except (OSError, AttributeError, ImportError, AssertionError): return False
    return True
"""

# What Landlock hides. Without Landlock a program can do all this.
READS = attacks(r"""
read a file               | open('@CANARY@').read()
list a folder             | os.listdir('@FOLDER@')
read the project          | open('@PROJECT@/sandbox.py').read()
read the users            | open('/etc/passwd').read()
read its memory           | open('/proc/self/mem', 'rb')
read the caller's secrets | open('/proc/@CALLER@/environ').read()
read by way of the caller | open('/proc/@CALLER@/root@CANARY@').read()
""")

# What seccomp forbids. +: without it, this succeeds and does no harm; so the tests can fail.
ATTACKS = attacks(r"""
  write a file            | open('@CANARY@', 'r+')
  truncate as it is opened | os.open('@CANARY@', os.O_RDONLY | os.O_TRUNC)
+ new file                | open('@FOLDER@/new', 'x')
  new file without a name | os.open('@FOLDER@', os.O_TMPFILE | os.O_RDWR)
  a path to open again    | os.open('@CANARY@', os.O_PATH)
  openat2                 | syscall(437, 437, -100, b'@CANARY@', struct.pack('3Q', 1, 0, 0), 24)
  truncate                | os.truncate('@CANARY@', 0)
+ new folder              | os.mkdir('@FOLDER@/made')
  new symbolic link       | os.symlink('x', '@FOLDER@/linked')
+ new pipe                | os.mkfifo('@FOLDER@/pipe')
  unlink                  | os.unlink('@CANARY@')
  rename                  | os.rename('@CANARY@', '@CANARY@.taken')
+ chmod                   | os.chmod('@CANARY@', 0o777)
  fchmod of a library     | os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o777)
  chown                   | os.chown('@CANARY@', 1, 1)
+ utime                   | os.utime('@CANARY@', (1, 1))
+ lock                    | fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH)
  write its memory        | open('/proc/self/mem', 'r+b')
  write shared memory     | open('/dev/shm/s3ft-taken', 'x')
+ memory as a file        | os.memfd_create('x')
  mount                   | syscall(165, 40, 0, 0, 0, 0, 0)
+ inotify                 | syscall(294, 26, 0)
+ fork                    | forks(os.fork())
  vfork                   | forks(syscall(58, 220, 0x4100 if not X86 else 0, 0, 0, 0, 0))
+ clone                   | forks(syscall(56, 220, 17, 0, 0, 0, 0))
  clone3                  | forks(syscall(435, 435, struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64))
  x32 fork                | forks(syscall(0x40000000 + 57, -1))
+ subprocess              | subprocess.run([sys.executable, '-c', ''], check=True)
  exec                    | os.execv('/bin/true', ['true'])
+ signal the caller       | os.kill(@CALLER@, 0)
  kill all                | os.kill(-1, 0)
  kill the group          | os.killpg(os.getpid(), 0)
  pidfd                   | os.pidfd_open(@CALLER@)
  signals by F_SETOWN     | fcntl.fcntl(0, fcntl.F_SETOWN, @CALLER@)
  new session             | os.setpgid(0, 0); os.setsid()
  ptrace                  | syscall(101, 117, -1, @CALLER@, 0, 0)
  another's memory        | syscall(310, 270, @CALLER@, 0, 0, 0, 0, 0)
  slow the caller         | os.setpriority(os.PRIO_PROCESS, @CALLER@, 19)
  limit the caller        | resource.prlimit(@CALLER@, resource.RLIMIT_NOFILE, (8, 8))
  raise a limit           | resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))
  become root             | os.setuid(0)
  outlive the caller      | syscall(157, 167, 1, 0, 0, 0, 0)
  new namespaces          | syscall(272, 97, 0)
  another's namespaces    | syscall(308, 268, -1, 0)
  poison memory           | syscall(28, 233, 0, 4096, 100)
+ socket                  | socket.socket()
+ TCP                     | socket.create_connection(('127.0.0.1', @TCP@), timeout=2)
+ UDP                     | socket.socket(type=2).sendto(b'x', ('127.0.0.1', @UDP@))
+ listen                  | socket.socket().listen()
+ Unix socket             | socket.socket(socket.AF_UNIX).connect('@FOLDER@/socket')
+ abstract socket         | socket.socket(socket.AF_UNIX).connect('\0s3ft-@TCP@')
+ address through a pair  | socket.socketpair(type=2)[0].sendto(b'x', '\0s3ft-@UDP@')
+ pass a descriptor       | a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0])
  io_uring                | syscall(425, 425, 0, 0)
  bpf                     | syscall(321, 280, -1, 0, 0)
  System V memory         | syscall(29, 194, 0, 0, 0)
  environment             | assert 'S3FT_SECRET' in os.environ or 'PATH' in os.environ
  module path             | assert any(os.path.exists(p + '/judges.py') for p in sys.path)
""")

HARMLESS = [name for name in ATTACKS if name.startswith("+")]

# Each adds one.
HONEST = programs(r"""
#: main guard that reads its input
def f(x): return x + 1
if __name__ == '__main__':
    import sys
    print(f(int(input())), sys.argv[1], open('numbers.txt').read())
#: exit
def f(x): return x + 1
exit()
#: prints
import sys
def f(x): return x + 1
print('é' * 10**6, flush=True)
sys.stderr.write('warned')
#: shadows builtins
list, sum, str = [1], 0, 'x'
def f(x): return x + 1
#: dataclass and future annotations
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
@dataclass
class P:
    x: int
    y: ClassVar[int] = 1
def f(x): return P(x).x + P.y
#: imports
import math, re, itertools, collections, heapq, bisect, string, random, datetime, decimal, fractions
import statistics, json, copy, operator, array, csv, io, textwrap, unicodedata, calendar, hashlib
import queue, types, abc, enum, cmath, logging, tempfile, secrets, unittest, doctest, signal
def f(x): return x + 1 + 0 * len(secrets.token_bytes(3)) * random.random()
#: recursion
import sys
sys.setrecursionlimit(10**5)
def g(n): return 0 if n == 0 else 1 + g(n - 1)
def f(x): return x + 1 + g(20000) - 20000
#: threads
from concurrent.futures import ThreadPoolExecutor
def f(x):
    with ThreadPoolExecutor(16) as pool: return sum(pool.map(int, [x] + [0] * 99)) + 1
#: a thread left over
import threading
def go():
    while True: pass
threading.Thread(target=go).start()
def f(x): return x + 1
#: asyncio
import asyncio
async def g(x):
    await asyncio.sleep(0.01)
    return x + 1
def f(x): return asyncio.run(g(x))
#: numpy
import numpy as np
def f(x): return np.int64(x) + int((np.eye(3) @ np.linalg.inv(np.eye(3))).sum()) - 2
#: pickle
import pickle
class P: pass
def f(x): return x + len([pickle.loads(pickle.dumps(P()))])
#: reads its libraries
import inspect, os
def f(x): return x + bool(os.listdir(os.path.dirname(os.__file__)) and inspect.getsource(os))
#: much memory
def f(x): return x + len(bytearray(4 * 10**8)) // (4 * 10**8)
""")
