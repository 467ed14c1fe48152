"""Programs that attack the judge `code` (FORGERIES) or the machine that it runs on (ATTACKS); one idea each, all of our making.

A forgery is judged against `f(3) == 1009` and `f(4) == [1013, "x"]`, values that it cannot know. An attack defines `attack()`,
which says whether it succeeded, as far as it can tell from inside. In both, @NAME@ is filled in by test_sandbox.py: @CANARY@, a
file with a secret outside the work folder, writable by all, @FOLDER@, its folder; @PARENT@, the judge's process id; @TCP@ and
@UDP@, ports that someone listens on; @UNIX@, a socket in @FOLDER@; @SOURCE@, judges.py; @SITE@, the site-packages.
"""

# What comes from `frame` is what the launcher would send: the program finds its descriptor and speaks in its place.
FRAME = r'''
import os, struct
def frame(text):
    text = text if isinstance(text, bytes) else text.encode()
    for fd in range(1, 32):
        try:
            os.write(fd, struct.pack(">Q", len(text)) + text)
        except OSError:
            pass
'''
ALWAYS = r'''
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
'''

FORGERIES = {
    # -- ends before the tests ------------------------------------------------------------------------------------------
    "sys.exit": "import sys\nsys.exit(0)",
    "raise SystemExit": "raise SystemExit(0)",
    "os._exit": "import os\nos._exit(0)",
    "exit in the call": "def f(x):\n    import sys\n    sys.exit(0)",
    "os._exit in the call": "def f(x):\n    import os\n    os._exit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)",
    "exit from a thread": "import os, threading, time\nthreading.Timer(0.05, os._exit, (0,)).start()\ndef f(x): time.sleep(5)",
    "abort": "import os\nos.abort()",
    "kills itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nimport time\ntime.sleep(0.1)",
    "alarm": "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ndef f(x): time.sleep(1)",
    "segmentation fault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    # -- says so ----------------------------------------------------------------------------------------------------------
    "prints a verdict": "print('{\"correct\": true, \"reason\": \"right\"}')\nprint('right')\nprint('1 passed')",
    "writes a verdict to all descriptors": "import os\nfor fd in range(32):\n    try: os.write(fd, b'right\\nR')\n    except OSError: pass",
    "frame: two trues": FRAME + "frame('[true,[true,true]]')\nos._exit(0)",
    "frame: no values": FRAME + "frame('[true,[]]')\nos._exit(0)",
    "frame: true": FRAME + "frame('true')\nos._exit(0)",
    "frame: an object": FRAME + "frame('{\"correct\": true}')\nos._exit(0)",
    "frame: ready again": FRAME + "frame('R[true,[null,null]]')\nos._exit(0)",
    "frame: NaN and 1e999": FRAME + "frame('[true,[NaN,1e999]]')\nos._exit(0)",
    "frame: a long number": FRAME + "frame('[true,[' + '1' * 10**6 + ',2]]')\nos._exit(0)",
    "frame: a long int": FRAME + "frame('[true,[[\"int\",\"0x' + 'f' * 10**6 + '\"],[\"int\",\"0x1\"]]]')\nos._exit(0)",
    "frame: nested": FRAME + "frame('[' * 10**6)\nos._exit(0)",
    "frame: nested lists": FRAME + "frame('[true,[' + '[\"list\",[' * 10**5 + ']]' * 10**5 + ']]')\nos._exit(0)",
    "frame: a million nulls": FRAME + "frame('[true,[[\"list\",[' + 'null,' * 300000 + 'null]],null]]')\nos._exit(0)",
    "frame: unhashable": FRAME + "frame('[true,[[\"set\",[[\"list\",[]]]],null]]')\nos._exit(0)",
    "frame: half a dict": FRAME + "frame('[true,[[\"dict\",[null]],null]]')\nos._exit(0)",
    "frame: another tag": FRAME + "frame('[true,[[\"eval\",\"1009\"],[\"__import__\",\"os\"]]]')\nos._exit(0)",
    "frame: range without end": FRAME + "frame('[true,[[\"range\",[[\"int\",\"0x0\"],[\"int\",\"0x' + 'f' * 40 + '\"],[\"int\",\"0x1\"]]],null]]')\nos._exit(0)",
    "frame: bad text": FRAME + "frame(b'[true,[[\"str\",\"ff\"],[\"str\",\"zz\"]]]\\xff\\x00')\nos._exit(0)",
    "frame: a failure named right": FRAME + "frame('[false,[\"str\",\"7269676874\"]]')\nos._exit(0)",
    "frame: length without end": "import os\nfor fd in range(1, 32):\n    try: os.write(fd, b'\\xff' * 8 + b'[' * 10**5)\n    except OSError: pass",
    "a thread that writes beside": FRAME + "import threading\ndef go():\n    while True: frame('[true,[true,true]]')\n"
                                   "threading.Thread(target=go, daemon=True).start()\ndef f(x): return True",
    "closes all descriptors": "import os\nos.closerange(0, 256)\ndef f(x): return True",
    # -- values that equal everything ---------------------------------------------------------------------------------------
    "equals everything": ALWAYS + "def f(x): return Always()",
    "an int that does": "class I(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef f(x): return I(1)",
    "a str that does": "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef f(x): return S('1009')",
    "a float that does": "class F(float):\n    def __eq__(s, o): return True\n    def hex(s): return '0x1.f88p+9'\ndef f(x): return F(1)",
    "a list that does": "class L(list):\n    def __eq__(s, o): return True\n    def __iter__(s): return iter([1009])\ndef f(x): return L()",
    "a dict that does": "class D(dict):\n    def __eq__(s, o): return True\n    def items(s): return [(1009, 1009)]\ndef f(x): return D()",
    "a set that does": "class S(set):\n    def __eq__(s, o): return True\ndef f(x): return S()",
    "a tuple that does": "class T(tuple):\n    def __eq__(s, o): return True\ndef f(x): return T()",
    "a class that does": "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = type.__hash__\nclass C(metaclass=M): pass\ndef f(x): return C",
    "says that it is an int": ALWAYS + "class I(Always):\n    __class__ = int\ndef f(x): return I()",
    "says so through its metaclass": "class M(type):\n    def __instancecheck__(s, o): return True\n    def mro(s): return [s, object]\n"
                                     "class C(metaclass=M): pass\ndef f(x): return C()",
    "looks like numpy": ALWAYS + "import sys, types\nm = types.ModuleType('numpy')\nclass generic(Always):\n    def item(s): return s\n"
                        "m.generic = generic\nsys.modules['numpy'] = m\ndef f(x): return generic()",
    "not a number": "def f(x): return float('nan')",
    "an iterator": "def f(x):\n    while True: yield True",
    "NotImplemented": "def f(x): return NotImplemented",
    "an exception": "def f(x): return AssertionError()",
    # -- replaces what the launcher may use ---------------------------------------------------------------------------------
    "shadows builtins": "isinstance = len = set = list = print = compile = eval = exec = type = lambda *a: True\ndef f(x): return object()",
    "replaces builtins": ALWAYS + "import builtins\nfor n in 'isinstance hex len next hasattr'.split(): setattr(builtins, n, lambda *a: True)\n"
                         "def f(x): return Always()",
    "replaces eval": ALWAYS + "import builtins\nbuiltins.eval = lambda *a, **k: True\nbuiltins.compile = lambda *a, **k: 'True'\ndef f(x): return 1",
    "replaces json, struct and marshal": "import json, struct, marshal, sys\nfor m in json, struct, marshal:\n    for n in dir(m):\n"
                                         "        if n[0] != '_': setattr(m, n, lambda *a, **k: b'')\ndef f(x): return True",
    "replaces os.write": "import os\nwrite = os.write\ndef fake(fd, data): return write(fd, b'[true,[true,true]]')\nos.write = fake\ndef f(x): return True",
    "empties sys.modules": "import sys\nsys.modules.clear()\ndef f(x): return True",
    "replaces __main__": "import sys\nsys.modules['__main__'] = sys\n__name__ = '__right__'\ndef f(x): return True",
    "patches the launcher's frame": "import sys\nframe = sys._getframe()\nwhile frame:\n    for n in list(frame.f_globals):\n"
                                    "        if n in ('encode', 'evaluate', 'Failure'): frame.f_globals[n] = lambda *a: 'true'\n    frame = frame.f_back\n"
                                    "def f(x): return True",
    "traces the launcher": "import sys\ndef trace(frame, event, arg):\n    frame.f_locals.update(done=True)\n    return trace\nsys.settrace(trace)\n"
                           "sys.setprofile(trace)\ndef f(x): return True",
    "hooks": "import sys\nsys.excepthook = sys.unraisablehook = sys.displayhook = lambda *a: None\nsys.addaudithook(lambda *a: None)\ndef f(x): return True",
    # -- looks for what is expected -------------------------------------------------------------------------------------------
    "frames and their locals": "import sys\ndef f(x):\n    frame, found = sys._getframe(), []\n    while frame:\n        found += [v for v in "
                               "[*frame.f_locals.values(), *frame.f_globals.values()] if v == 1009 or '1009' in str(v)[:10**5]]\n"
                               "        frame = frame.f_back\n    return 1009 - 9 if not found else found[0]",
    "gc": "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o, (list, tuple)) and any(type(v) is int and v in "
          "(1000 + 9, 1000 + 13) for v in o): return next(v for v in o if type(v) is int and v > 1000)\n    return True",
    "reads its input again": "import os, re\ndef f(x):\n    data = b''\n    for fd in range(16):\n        try:\n            os.lseek(fd, 0, 0)\n"
                             "            data += os.read(fd, 10**6)\n        except OSError: pass\n    found = re.findall(rb'== *(\\d+)', data)\n"
                             "    return int(found[0]) if found else True",
    "reads its memory": "import re\ndef f(x):\n    for line in open('/proc/self/maps'):\n        a, b = (int(v, 16) for v in line.split()[0].split('-'))\n"
                        "        with open('/proc/self/mem', 'rb') as m:\n            m.seek(a)\n            found = re.findall(rb'f\\(3\\) == (\\d+)', m.read(b - a))\n"
                        "        if found: return int(found[0])",
    "the data file": "import glob\ndef f(x): return [open(p).read() for p in glob.glob('/work/**/*.jsonl', recursive=True)] and True",
    "imports the judge": "import judges\ndef f(x): return judges.Verdict(True, 'right')",
    "waits for the expected value": "def f(x):\n    class Later(int):\n        def __eq__(s, o): return int.__eq__(o, o)\n    return Later()",
    # -- never ends, or is too much (the CPU limit is one second here) ---------------------------------------------------------
    "loops": "while True: pass",
    "loops in the call": "def f(x):\n    while True: pass",
    "sleeps": "import time\ntime.sleep(10**6)",
    "waits for input": "def f(x): return input()",
    "waits for a lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "a large power": "def f(x): return 9 ** 9 ** 9",
    "a slow pattern": "import re\ndef f(x): return bool(re.match('(a+)+$', 'a' * 40 + 'b'))",
    "loops in __repr__ and __str__": "class E(Exception):\n    def __str__(s):\n        while True: pass\n    __repr__ = __str__\ndef f(x): raise E",
    "loops in __iter__": "class L(dict):\n    def __iter__(s):\n        while True: yield 1\n    keys = items = __iter__\ndef f(x): return L()",
    "loops in __hash__": "class H(int):\n    def __hash__(s):\n        while True: pass\ndef f(x): return {H(): 1}",
    "loops in __del__": "class D:\n    def __del__(s):\n        while True: pass\ndef f(x): return D()",
    "loops in a class lookup": "class C:\n    @property\n    def __class__(s):\n        while True: pass\ndef f(x): return C()",
    "ignores the CPU limit's signal": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "a hostile exception": "class M(type):\n    __name__ = property(lambda s: 1 / 0)\nclass E(Exception, metaclass=M): pass\ndef f(x): raise E",
    "a long exception": "def f(x): raise ValueError('x' * 10**7 + '\\ud800\\0\\n')",
    "a long traceback": "def f(x):\n    try: return f(x)\n    except RecursionError as e:\n        for i in range(10**5):\n            n = ValueError(i)\n"
                        "            n.__cause__, e = e, n\n        raise e",
    "a long int": "def f(x): return 10 ** 10**6",
    "a long string": "def f(x): return 'x' * 10**8",
    "a long list": "def f(x): return [None] * 10**7",
    "a shared list": "def f(x):\n    v = []\n    for _ in range(45): v = [v, v]\n    return v",
    "a deep list": "def f(x):\n    v = []\n    for _ in range(10**5): v = [v]\n    return v",
    "a cycle": "def f(x):\n    v = []\n    v.append(v)\n    return v",
    "a cycle of dicts": "def f(x):\n    v = {}\n    v[0] = (v,)\n    return v",
    "a long range": "def f(x): return range(10**18)",
    "colliding hashes": "def f(x): return {i * (2**61 - 1) for i in range(9000)}",
    "recursion without end": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return [f(x)]",
    "recursion in C": "import sys\nsys.setrecursionlimit(10**9)\nclass C:\n    def __repr__(s): return repr([s])\ndef f(x): return repr(C())",
    "a deep source": "f = " + "(" * 4000 + "1" + ")" * 4000,
    "a deep expression": "f = " + "-" * 9000 + "1",
    "a long source": "x = 1\n" * 200_000,
    "NUL": "def f(x): return 1009\0",
    "a lone surrogate": "def f(x): return 1009 \ud800",
    "lone surrogates in names": "def f(x): raise ValueError('\ud800')\n",
    "memory": "def f(x): return len(bytearray(4 * 10**9))",
    "memory, bit by bit": "def f(x):\n    v = [0]\n    while True: v += v",
    "output": "while True: print('right' * 10**5)",
    "errors": "import sys\nwhile True: sys.stderr.write('right' * 10**5)",
    "threads": "import threading, time\nthreading.stack_size(32768)\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "forks": "import os\nwhile True: os.fork()",
    "many descriptors": "import os\nv = [os.open('/dev/null', 0) for _ in range(10**5)]",
}

SYSCALL = r'''
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
def syscall(x86, arm, *args):
    return libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in (x86 if X86 else arm, *args)))
'''


def attempt(body, imports="import os", error="OSError"):
    """An attack that has succeeded if its body runs to the end."""
    lines = "\n".join("        " + line for line in body.split("\n"))
    return f"{imports}\ndef attack():\n    try:\n{lines}\n    except ({error}, AttributeError):\n        return False\n    return True"


def by_number(x86, arm, *args):
    return SYSCALL + f"def attack(): return syscall({x86}, {arm}, {', '.join(args)}) >= 0"


ATTACKS = {
    # -- files outside the work folder --------------------------------------------------------------------------------------
    "read a file": attempt("open('@CANARY@').read()"),
    "read the password file": attempt("open('/etc/shadow').read()"),
    "read the judge": attempt("open('@SOURCE@').read()"),
    "read the data": attempt("import glob\nif not glob.glob('@FOLDER@/*'): raise OSError"),
    "list a folder": attempt("os.listdir('@FOLDER@')"),
    "list the home folder": attempt("os.listdir(os.path.expanduser('~root'))\nos.listdir('/root')"),
    "read the parent's environment": attempt("open('/proc/@PARENT@/environ').read()"),
    "read the parent's memory": attempt("open('/proc/@PARENT@/mem', 'rb')"),
    "read a descriptor of the parent": attempt("for fd in range(50):\n    if os.path.exists(f'/proc/@PARENT@/fd/{fd}'):\n        open(f'/proc/@PARENT@/fd/{fd}')\nos.listdir('/proc/@PARENT@/fd')"),
    "read through a symbolic link": attempt("os.symlink('@CANARY@', 'link')\nopen('link').read()"),
    "write a file": attempt("open('@CANARY@', 'w').write('pwned')"),
    "append to a file": attempt("open('@CANARY@', 'a').write('pwned')"),
    "truncate a file": attempt("os.truncate('@CANARY@', 0)"),
    "truncate a file by opening it to read": attempt("os.open('@CANARY@', os.O_RDONLY | os.O_TRUNC)"),
    "write through a symbolic link": attempt("os.symlink('@CANARY@', 'link2')\nopen('link2', 'w').write('pwned')"),
    "write through a hard link": attempt("os.link('@CANARY@', 'hard')\nopen('hard', 'w').write('pwned')"),
    "new file": attempt("open('@FOLDER@/new', 'w').write('pwned')"),
    "new file in /var/tmp": attempt("open('/var/tmp/s3ft-pwned', 'w').write('pwned')"),
    "new folder": attempt("os.mkdir('@FOLDER@/pwned')"),
    "new symbolic link": attempt("os.symlink('x', '@FOLDER@/pwned')"),
    "new pipe": attempt("os.mkfifo('@FOLDER@/pwned')"),
    "new device": attempt("os.mknod('device', 0o20666, os.makedev(1, 1))"),
    "unlink": attempt("os.unlink('@CANARY@')"),
    "rename": attempt("os.rename('@CANARY@', '@CANARY@.pwned')"),
    "rename into the work folder": attempt("os.rename('@CANARY@', 'taken')"),
    "rename over": attempt("open('mine', 'w').close()\nos.rename('mine', '@CANARY@')"),
    "remove a tree": attempt("import shutil\nshutil.rmtree('@FOLDER@')"),
    "chmod": attempt("os.chmod('@CANARY@', 0o777)"),
    "fchmod of a library": attempt("os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o777)"),
    "chown": attempt("os.chown('@CANARY@', 1, 1)"),
    "utime": attempt("os.utime('@CANARY@', (1, 1))"),
    "utime of a library": attempt("os.utime(os.__file__, (1, 1))"),
    "setxattr": attempt("os.setxattr('@CANARY@', 'user.pwned', b'1')"),
    "setxattr of a library": attempt("os.setxattr(os.__file__, 'user.pwned', b'1')"),
    "write a library": attempt("open(os.__file__, 'a').write('')"),
    "truncate a library by opening it": attempt("os.open(os.path.join('@SITE@', 'pwned-canary'), os.O_RDONLY | os.O_TRUNC)"),
    "write a .pth file": attempt("open('@SITE@/pwned.pth', 'w').write('import os')"),
    "write sitecustomize": attempt("open(os.path.dirname(os.__file__) + '/sitecustomize.py', 'w').write('')"),
    "write beside the judge": attempt("open(os.path.dirname('@SOURCE@') + '/pwned.py', 'w').write('')"),
    "shared memory file": attempt("open('/dev/shm/s3ft-pwned', 'w').write('pwned')"),
    "terminal": attempt("open('/dev/tty', 'w').write('pwned')"),
    "a large file": attempt("with open('large', 'wb') as file:\n    for _ in range(1000): file.write(bytes(1 << 20))"),
    "execute from the work folder": attempt("open('run', 'w').write('#!/bin/sh')\nos.chmod('run', 0o755)\nos.execv('./run', ['run'])"),
    "chroot": attempt("os.chroot('.')"),
    "change the root by name": attempt("os.chdir('/proc/@PARENT@/root')\nopen('.' + '@CANARY@').read()"),
    "mount": SYSCALL + "def attack():\n    os.makedirs('m', exist_ok=True)\n    return libc.mount(b'none', b'm', b'tmpfs', 0, None) == 0",
    "unmount": SYSCALL + "def attack(): return libc.umount2(b'/', 2) == 0 or libc.umount2(b'/usr/lib', 2) == 0",
    "bind mount": SYSCALL + "def attack(): return libc.mount(b'/', b'/tmp', None, 4096, None) == 0",
    "open_tree": by_number(428, 428, "-100", "b'/'", "1"),
    "name_to_handle_at": by_number(303, 264, "-100", "b'/'", "bytes(200)", "bytes(8)", "0"),
    "inotify": by_number(294, 26, "0"),
    "fanotify": by_number(300, 262, "0", "0"),
    "swapon": by_number(167, 224, "b'@CANARY@'", "0"),
    "acct": by_number(163, 89, "b'@CANARY@'"),
    # -- processes -------------------------------------------------------------------------------------------------------------
    "fork": attempt("if os.fork() == 0: os._exit(0)"),
    "double fork and setsid": attempt("import time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)"),
    "system": attempt("if os.system('true'): raise OSError"),
    "subprocess": attempt("import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''], check=True)"),
    "posix_spawn": attempt("os.posix_spawn('/bin/true', ['true'], {})"),
    "multiprocessing": attempt("import multiprocessing\np = multiprocessing.get_context('fork').Process(target=print)\np.start()"),
    "exec": attempt("os.execv('/bin/true', ['true'])"),
    "the dynamic loader": attempt("os.execv('/lib64/ld-linux-x86-64.so.2', ['ld', '/bin/true'])"),
    "vfork": SYSCALL + "def attack():\n    r = syscall(58, 220, 0x4100 if not X86 else 0, 0, 0, 0, 0)\n    if r == 0: os._exit(0)\n    return r > 0",
    "clone": SYSCALL + "def attack():\n    r = syscall(56, 220, 17, 0, 0, 0, 0)\n    if r == 0: os._exit(0)\n    return r > 0",
    "clone3": SYSCALL + "def attack():\n    import struct\n    r = syscall(435, 435, struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64)\n"
              "    if r == 0: os._exit(0)\n    return r > 0",
    "memory as a program": attempt("os.memfd_create('x')"),
    "32-bit system calls": SYSCALL + r'''
import mmap
def attack():
    if not X86: return False
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(b"\x53\xb8\x02\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 2 (fork); int 0x80; pop rbx; ret
    fork = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    r = fork()
    if r == 0: os._exit(0)
    return r > 0
''',
    "x32 system calls": SYSCALL + "def attack():\n    r = syscall(0x40000000 + 57, 10**6) if X86 else -1\n    if r == 0: os._exit(0)\n    return r > 0",
    "kill the judge": attempt("os.kill(@PARENT@, 9)"),
    "signal the judge": attempt("os.kill(@PARENT@, 0)"),
    "stop the parent": attempt("os.kill(os.getppid() or 10**7, 19)"),
    "kill all": attempt("os.kill(-1, 9)"),
    "kill the group": attempt("os.kill(0, 9)"),
    "killpg": attempt("os.killpg(os.getpgid(0) or 1, 9)"),
    "tgkill": by_number(234, 131, "@PARENT@", "@PARENT@", "0"),
    "tkill": by_number(200, 130, "@PARENT@", "0"),
    "queue a signal": by_number(129, 138, "@PARENT@", "10", "bytes(128)"),
    "pidfd": attempt("os.pidfd_open(@PARENT@)"),
    "signals by F_SETOWN": attempt("import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, @PARENT@)"),
    "ptrace the judge": by_number(101, 117, "16", "@PARENT@", "0", "0"),
    "ptrace itself": by_number(101, 117, "0", "0", "0", "0"),
    "process_vm_readv": by_number(310, 270, "@PARENT@", "0", "0", "0", "0", "0"),
    "setsid": attempt("os.setsid()"),
    "setpgid": attempt("os.setpgid(0, 0)\nos.setpgid(0, os.getpid())"),
    "outlive the parent": SYSCALL + "def attack(): return libc.prctl(1, 0, 0, 0, 0) == 0",
    "become a subreaper": SYSCALL + "def attack(): return libc.prctl(36, 1, 0, 0, 0) == 0",
    "slow the judge": attempt("os.setpriority(os.PRIO_PROCESS, @PARENT@, 19)"),
    "pin the judge": attempt("os.sched_setaffinity(@PARENT@, {0})"),
    "io priority": by_number(251, 30, "1", "@PARENT@", "0"),
    "limit the judge": attempt("import resource\nresource.prlimit(@PARENT@, resource.RLIMIT_NOFILE, (8, 8))"),
    "raise its limits": attempt("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))", error="OSError, ValueError"),
    "become root": attempt("os.setuid(0)\nos.setresuid(0, 0, 0)"),
    "change the groups": attempt("os.setgroups([0])"),
    "regain capabilities": SYSCALL + "def attack():\n    import struct\n    return libc.capset(struct.pack('Ii', 0x20080522, 0), b'\\xff' * 24) == 0",
    "has capabilities": SYSCALL + "def attack():\n    import struct\n    data = ctypes.create_string_buffer(24)\n"
                        "    return syscall(125, 90, struct.pack('Ii', 0x20080522, 0), data) == 0 and any(data.raw)",
    "new namespaces": SYSCALL + "def attack(): return any(libc.unshare(f) == 0 for f in (0x10000000, 0x20000, 0x40000000, 0x20000000))",
    "another's namespace": attempt("fd = os.open('/proc/1/ns/mnt', 0)", SYSCALL) + "\n",
    "setns": SYSCALL + "def attack(): return syscall(308, 268, 0, 0) >= 0",
    "personality": by_number(135, 92, "0x40000"),
    # -- the kernel's less trodden parts ------------------------------------------------------------------------------------------
    "bpf": by_number(321, 280, "0", "bytes(128)", "128"),
    "perf": by_number(298, 241, "bytes(128)", "0", "-1", "-1", "0"),
    "io_uring": by_number(425, 425, "4", "bytes(120)"),
    "userfaultfd": by_number(323, 282, "1"),
    "keyctl": by_number(250, 219, "0", "-3", "1"),
    "add_key": by_number(248, 217, "b'user'", "b'pwned'", "b'x'", "1", "-3"),
    "System V shared memory": by_number(29, 194, "0", "4096", "0o1600"),
    "System V semaphores": by_number(64, 190, "0", "1", "0o1600"),
    "System V messages": by_number(68, 186, "0", "0o1600"),
    "POSIX messages": by_number(240, 180, "b'pwned'", "0o102", "0o600", "0"),
    "POSIX shared memory": attempt("from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=10)", error="OSError, ImportError"),
    "kernel log": by_number(103, 116, "10", "0", "0"),
    "host name": by_number(170, 161, "b'pwned'", "5"),
    "the clock": by_number(227, 112, "0", "bytes(16)"),
    "modules": by_number(175, 105, "b''", "0", "b''"),
    "kexec": by_number(246, 104, "0", "0", "0", "0"),
    "another filter": SYSCALL + "def attack(): return libc.prctl(22, 1, 0, 0, 0) == 0",
    "terminal input": attempt("import fcntl\nfcntl.ioctl(2, 0x5412, b'x')"),
    "a long pipe": attempt("import fcntl\nfcntl.fcntl(os.pipe()[0], 1031, 1 << 20)"),
    # -- network -------------------------------------------------------------------------------------------------------------------
    "TCP": attempt("socket.create_connection(('127.0.0.1', @TCP@), timeout=2).send(b'pwned')", "import socket"),
    "TCP version 6": attempt("socket.socket(socket.AF_INET6).bind(('::1', 0))", "import socket"),
    "UDP": attempt("socket.socket(type=socket.SOCK_DGRAM).sendto(b'pwned', ('127.0.0.1', @UDP@))", "import socket"),
    "listen": attempt("s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()", "import socket"),
    "Unix socket": attempt("socket.socket(socket.AF_UNIX).connect('@UNIX@')", "import socket"),
    "abstract Unix socket": attempt("socket.socket(socket.AF_UNIX).connect('\\0s3ft-@TCP@')", "import socket"),
    "abstract address through a pair": attempt("a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'pwned', '\\0s3ft-udp-@UDP@')", "import socket"),
    "address through a pair": attempt("a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'pwned', '@UNIX@.udp')", "import socket"),
    "pass a descriptor": attempt("a, b = socket.socketpair()\nsocket.send_fds(a, [b'x'], [0])", "import socket"),
    "netlink": attempt("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", "import socket"),
    "raw packets": attempt("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)", "import socket"),
    "vsock": attempt("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", "import socket"),
    "names": attempt("socket.getaddrinfo('example.org', 80)", "import socket"),
    # -- what is inherited, what outlives ---------------------------------------------------------------------------------------------
    "environment": "import os\ndef attack(): return 'S3FT_SECRET' in os.environ or 'PATH' in os.environ",
    "descriptors": "import os, stat\ndef attack():\n    found = []\n    for fd in range(3, 1024):\n        try: found.append(os.fstat(fd))\n"
                   "        except OSError: pass\n    return len(found) != 1 or not stat.S_ISFIFO(found[0].st_mode)",
    "its input": "import os, stat\ndef attack(): return not stat.S_ISCHR(os.fstat(0).st_mode)",
    "module path": "import sys, os\ndef attack(): return any(os.path.exists(os.path.join(p, 'judges.py')) for p in sys.path) or '' in sys.path",
    "a thread that goes on": "import threading\ndef go():\n    while True: pass\ndef attack():\n    threading.Thread(target=go).start()\n    return False",
    "a thread that writes on": "import threading\ndef go():\n    while True: open('again', 'w').write('x')\ndef attack():\n    threading.Thread(target=go).start()\n    return False",
    "ignores all signals": "import signal, time\ndef attack():\n    for s in range(1, 65):\n        try: signal.signal(s, signal.SIG_IGN)\n"
                           "        except (OSError, ValueError): pass\n    while True: pass",
    "stops itself": "import os, signal, threading\ndef attack():\n    os.kill(os.getpid(), signal.SIGSTOP)\n    return False",
    "a deep folder": "import os\ndef attack():\n    for _ in range(3000):\n        os.mkdir('d')\n        os.chdir('d')\n    return False",
    "folders of mode 0": "import os\ndef attack():\n    os.makedirs('a/b/c')\n    open('a/b/file', 'w').close()\n    os.mkdir('a/z', 0)\n    os.umask(0o777)\n"
                         "    os.mkdir('y')\n    return False",
    "a link in place of a folder": "import os\ndef attack():\n    os.symlink('@FOLDER@', 'folder')\n    os.symlink('folder', 'again')\n    os.symlink('.', 'loop')\n    return False",
    "odd names": "import os\ndef attack():\n    for name in (b'\\xff', b'a\\nb', b'-rf', b'*', b' ', b'x' * 255): open(name, 'w').close()\n    return False",
    "its folder removed": "import os\ndef attack():\n    try: os.rmdir(os.getcwd())\n    except OSError: pass\n    return False",
}
# Those that succeed without the layers and do no harm then: the test that the tests can fail.
HARMLESS = ["read a file", "list a folder", "read the judge", "read through a symbolic link", "append to a file", "chmod", "utime", "new file",
            "new folder", "fork", "subprocess", "system", "memory as a program", "signal the judge", "TCP", "UDP", "Unix socket",
            "abstract Unix socket", "abstract address through a pair", "address through a pair", "listen", "inotify", "clone", "clone3"]
