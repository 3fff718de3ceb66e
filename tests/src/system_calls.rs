//! Counts the system calls of a thread of another process, one by one as the kernel sees them (`ptrace`).
//!
//! A counter that the thread keeps itself would miss what it forgets to count, and tracepoints are for root. This works
//! for whoever started the process. It makes each call slower by some microseconds, so it is for loads that do not
//! become others by that.

#![allow(unsafe_code)] // ptrace has no safe form.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

/// A thread whose system calls are counted until it ends.
pub struct Traced {
    counts: Arc<Mutex<Counts>>,
    tracer: Option<JoinHandle<()>>,
}

/// System calls that a thread made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often, by the number of the call.
    pub calls: BTreeMap<i64, u64>,
    /// How many of them only found that there is nothing yet: waits without time that nothing ended, and of a thread that
    /// spins also receives without bytes, and letting others go first.
    pub looks: u64,
}

impl Counts {
    /// All calls but looks.
    pub fn work(&self) -> u64 {
        self.calls.values().sum::<u64>() - self.looks
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |number| earlier.calls.get(number).copied().unwrap_or(0);
        let calls = self.calls.iter().map(|(number, count)| (*number, count - before(number)));
        Self { calls: calls.filter(|(_, count)| *count > 0).collect(), looks: self.looks - earlier.looks }
    }
}

impl Traced {
    /// Begins to count. `spins`: the thread asks again and again while there is nothing to do.
    ///
    /// # Errors
    /// The kernel does not allow it, as a container or `/proc/sys/kernel/yama/ptrace_scope` may want, or it cannot tell
    /// what a system call is. The thread goes on as before.
    pub fn begin(thread: i32, spins: bool) -> io::Result<Self> {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (begun, begin) = mpsc::channel();
        let counter = Arc::clone(&counts);
        // All requests must come from one thread, and that thread waits most of the time.
        let tracer = std::thread::spawn(move || match seize(thread) {
            Ok(()) => {
                let _ = begun.send(Ok(()));
                count(thread, spins, &counter);
            }
            Err(error) => {
                let _ = begun.send(Err(error));
            }
        });
        begin.recv().map_err(|_| io::Error::other("the tracer panicked"))??;
        Ok(Self { counts, tracer: Some(tracer) })
    }

    /// Stops the thread at its next call, or at the end of the one that it is in, until the result is dropped.
    pub fn hold(&self) -> impl Drop {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted until now.
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the thread has ended.
    ///
    /// # Panics
    /// When counting failed.
    pub fn ended(mut self) {
        if let Some(tracer) = self.tracer.take() {
            assert!(tracer.join().is_ok(), "counting system calls failed");
        }
    }
}

fn request(request: libc::c_uint, thread: i32, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: none of the requests made here writes to this process but PTRACE_GET_SYSCALL_INFO, which `entered` gives
    // memory that is its own.
    let result = unsafe { libc::ptrace(request, thread, address, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes hold of a thread, and lets it go on to its next call.
fn seize(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, thread, 0, libc::PTRACE_O_TRACESYSGOOD as usize)?;
    request(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
    wait(thread)?;
    // Whether the kernel can say more later is known only by asking.
    let begun = stopped_at(thread).and_then(|_| request(libc::PTRACE_SYSCALL, thread, 0, 0));
    if begun.is_err() {
        let _ = request(libc::PTRACE_DETACH, thread, 0, 0);
    }
    begun.map(drop)
}

/// The status of the thread when it has stopped or ended.
fn wait(thread: i32) -> io::Result<libc::c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is this function's own.
        if unsafe { libc::waitpid(thread, &mut status, libc::__WALL) } == thread {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Counts until the thread ends.
///
/// # Panics
/// When the kernel does not say what the thread is at. The thread goes on then.
fn count(thread: i32, spins: bool, counts: &Mutex<Counts>) {
    // What the call that the thread is in returns when it only looks and finds nothing.
    let mut nothing = None;
    while let Ok(status) = wait(thread) {
        if !libc::WIFSTOPPED(status) {
            return;
        }
        let signal = libc::WSTOPSIG(status);
        let mut pass_on = 0;
        if signal == libc::SIGTRAP | 0x80 {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            match stopped_at(thread) {
                Ok(Stop::Entry { number, arguments }) => {
                    nothing = returns_for_nothing(number, arguments, spins);
                    *counts.calls.entry(number).or_default() += 1;
                }
                Ok(Stop::Exit { result }) => counts.looks += u64::from(nothing == Some(result)),
                Ok(Stop::Other) => {}
                // It was killed, which the next wait says.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                Err(error) => {
                    let _ = request(libc::PTRACE_DETACH, thread, 0, 0);
                    panic!("cannot tell the system call of thread {thread}: {error}");
                }
            }
        } else if status >> 16 == 0 {
            pass_on = signal;
        }
        // It may have been killed meanwhile, which the next wait says.
        let _ = request(libc::PTRACE_SYSCALL, thread, 0, pass_on as usize);
    }
}

/// What a call returns that does no more than find nothing, if it may be such: one that waits for events, and no time for
/// them; of a thread that spins also others.
fn returns_for_nothing(number: i64, arguments: [u64; 6], spins: bool) -> Option<i64> {
    match number {
        // Newer architectures have only the other one.
        #[cfg(not(any(target_arch = "aarch64", target_arch = "loongarch64", target_arch = "riscv64")))]
        libc::SYS_epoll_wait if arguments[3] as i32 == 0 => Some(0),
        libc::SYS_epoll_pwait if arguments[3] as i32 == 0 => Some(0),
        libc::SYS_sched_yield if spins => Some(0),
        libc::SYS_recvfrom | libc::SYS_read | libc::SYS_readv if spins => Some(-i64::from(libc::EAGAIN)),
        _ => None,
    }
}

enum Stop {
    Entry { number: i64, arguments: [u64; 6] },
    Exit { result: i64 },
    Other,
}

fn stopped_at(thread: i32) -> io::Result<Stop> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of_val(&info);
    request(libc::PTRACE_GET_SYSCALL_INFO, thread, size, info.as_mut_ptr() as usize)?;
    // SAFETY: all zeroes is a value of this type, and the kernel wrote valid ones over it.
    let info = unsafe { info.assume_init() };
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says that the kernel wrote this member of the union.
            let entry = unsafe { info.u.entry };
            Stop::Entry { number: entry.nr as i64, arguments: entry.args }
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: `op` says that the kernel wrote this member of the union.
            let exit = unsafe { info.u.exit };
            Stop::Exit { result: exit.sval }
        }
        _ => Stop::Other,
    })
}
