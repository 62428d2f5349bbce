//! A fork straight into a cgroup.
//!
//! A process that is moved into a cgroup makes the kernel wait for every processor and holds up whoever forks, executes
//! or ends on the whole machine meanwhile: some ten milliseconds, one move at a time. One that is born there waits for
//! nobody. `std::process::Command` cannot ask for that, so this does, as the C library's `posix_spawn` does it: the child
//! runs on a small stack of its own in the memory of this process, whose thread waits until it has executed its program.
//! A copy of the memory would cost more with each instance that there is.
//!
//! In the few lines between fork and exec almost nothing is allowed: no allocation, no lock, only system calls over what
//! was made ready before.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// `CLONE_INTO_CGROUP`, since Linux 5.7.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Far more than a few system calls need, in units that are aligned as a stack must be.
const STACK: usize = 32 * 1024 / size_of::<u128>();

/// Why there is no process.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It cannot be born there: an older kernel, another machine, or a filter of system calls. There are other ways.
    Fork(io::Error),
    /// It was born, and could not execute the program. It is gone.
    Exec(io::Error),
}

/// What the child is given, and gives back.
struct Child {
    stdio: [i32; 3],
    program: *const libc::c_char,
    args: *const *const libc::c_char,
    env: *const *const libc::c_char,
    /// Why it could not execute the program; 0 if it could.
    errno: i32,
}

/// Forks into the cgroup of this open directory and executes a program there with these three as its standard input,
/// output and error. Every other descriptor must be close-on-exec. All signals are blocked in it.
#[expect(unsafe_code, reason = "the standard library forks into no cgroup")]
pub(crate) fn exec_in(
    group: BorrowedFd<'_>,
    program: &CString,
    args: &[CString],
    env: &[CString],
    stdio: [BorrowedFd<'_>; 3],
) -> Result<u32, Failed> {
    let pointers = |of: &[CString]| -> Vec<*const libc::c_char> {
        of.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    let mut child = Child {
        stdio: stdio.map(|fd| fd.as_raw_fd()),
        program: program.as_ptr(),
        args: args.as_ptr(),
        env: env.as_ptr(),
        errno: 0,
    };
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK);
    // SAFETY: plain numbers, for all of which zero means that nothing is asked for.
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    // The thread goes on when the program is executed or the child has ended, and its memory is the child's until then.
    clone.flags = INTO_CGROUP | u64::from((libc::CLONE_VM | libc::CLONE_VFORK).cast_unsigned());
    clone.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    clone.stack = stack.as_mut_ptr().addr() as u64;
    clone.stack_size = (stack.capacity() * size_of::<u128>()) as u64;
    clone.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    // SAFETY: both are valid to write to, and `all` is filled before it is read. Blocked, no handler of the engine's
    // runs in the child, where it would speak for the engine.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    // SAFETY: the stack is the child's alone and outlives its use of it, as does all that `child` points to.
    let pid = unsafe { clone3(&clone, live, &raw mut child) };
    // SAFETY: the mask is the one from before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    drop(stack);
    let Some(pid) = u32::try_from(pid).ok().filter(|pid| *pid > 0) else {
        let errno = i32::try_from(-pid).unwrap_or(libc::ENOSYS);
        return Err(Failed::Fork(io::Error::from_raw_os_error(errno)));
    };
    // SAFETY: the child wrote it, if at all, before this thread went on.
    match unsafe { (&raw const child.errno).read_volatile() } {
        0 => Ok(pid),
        errno => {
            end(pid);
            Err(Failed::Exec(io::Error::from_raw_os_error(errno)))
        }
    }
}

/// The child's whole life before its program.
#[expect(unsafe_code, reason = "between fork and exec there are only system calls")]
unsafe extern "C" fn live(child: *mut Child) -> ! {
    // SAFETY: `child` and what it points to were made ready by a thread that waits for the end of this; numbers, and strings
    // and lists that end in null. `errno` is that thread's own. Nothing returns from here.
    unsafe {
        let mut good = true;
        for (number, fd) in (0..).zip((*child).stdio) {
            good = good && libc::dup2(fd, number) != -1;
        }
        if good {
            libc::execve((*child).program, (*child).args, (*child).env);
        }
        (&raw mut (*child).errno).write_volatile(*libc::__errno_location());
        libc::_exit(127)
    }
}

/// The system call. The child has another stack, on which only a function that never returns may go on.
///
/// # Safety
/// What `clone` and `given` point to is the child's until it has executed a program or ended, and `clone` asks that this
/// thread waits for that.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "no function can return twice, on two stacks")]
unsafe fn clone3(
    clone: &libc::clone_args,
    live: unsafe extern "C" fn(*mut Child) -> !,
    given: *mut Child,
) -> i64 {
    let mut told = libc::SYS_clone3;
    // SAFETY: the system call changes `rax`, `rcx` and `r11`. Everything else is changed in the child alone.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") told,
            in("rdi") clone,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") given,
            in("r13") live,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    told
}

/// The same for another kind of processor.
#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "no function can return twice, on two stacks")]
unsafe fn clone3(
    clone: &libc::clone_args,
    live: unsafe extern "C" fn(*mut Child) -> !,
    given: *mut Child,
) -> i64 {
    let told: i64;
    // SAFETY: the system call changes `x0`. Everything else is changed in the child alone.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") clone => told,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x20") given,
            in("x21") live,
        );
    }
    told
}

/// Nobody has written it for this kind of processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone3(_: &libc::clone_args, _: unsafe extern "C" fn(*mut Child) -> !, _: *mut Child) -> i64 {
    -i64::from(libc::ENOSYS)
}

/// Kills and reaps a child that nobody else knows of: nobody reaps it before, so the number is its own.
pub(crate) fn end(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let _ = kill_process(pid, Signal::KILL);
    while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_no_cgroup_is_told_apart_from_what_is_no_program() {
        let null = File::open("/dev/null").unwrap();
        let (no_group, stdio) = (File::open("/").unwrap(), [null.as_fd(), null.as_fd(), null.as_fd()]);
        let program = c"/bin/true".to_owned();
        let failed =
            exec_in(no_group.as_fd(), &program, std::slice::from_ref(&program), &[], stdio).unwrap_err();
        // Not one that no kernel could give: the call was made.
        assert!(
            matches!(&failed, Failed::Fork(error) if error.raw_os_error() != Some(libc::EFAULT)),
            "{failed:?}"
        );
    }
}
