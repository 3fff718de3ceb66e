//! The hardware boundary: what the driver asks of an NVMe function, whoever stands behind it.
//!
//! There are three kinds: a PCI function held through vfio-pci ([`crate::vfio`]), one that another process serves
//! ([`crate::vfio_user`]) and a software controller in this process ([`crate::emulated`]). The controller and queue code
//! above this trait is the same for all. Registers go through the trait, because they are rare; doorbells and queues are
//! plain memory, because they are not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::dma::DmaDomain;
use crate::mmio::Doorbell;

/// One NVMe function: its controller registers (BAR0), its doorbells, and the IOMMU domain it does DMA in.
///
/// A controller reads and writes the memory that its registers and queues name. Whoever writes them by hand, instead of
/// giving the function to a [`Controller`](crate::Controller), must see to it that nobody holds a reference into that
/// memory while the controller runs.
pub trait Function: Send {
    /// A name a person recognises: `pci:0000:01:00.0`, `emulated:0`.
    fn name(&self) -> &str;

    /// The domain whose regions this function can reach. Every function of a process shares one.
    fn domain(&self) -> &DmaDomain;

    /// Reads the 32-bit register at `offset` bytes into BAR0.
    ///
    /// # Errors
    /// [`FunctionError::Gone`] when the device no longer answers, [`FunctionError::OutOfBounds`] or
    /// [`FunctionError::Misaligned`] when `offset` names no register.
    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError>;

    /// Writes the 32-bit register at `offset` bytes into BAR0.
    ///
    /// # Errors
    /// As [`Function::read_register32`].
    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError>;

    /// Reads the 64-bit register at `offset` as two 32-bit accesses, the low half first: controllers need not
    /// support 64-bit accesses (NVMe over PCIe Transport 1.0, 3.1).
    ///
    /// # Errors
    /// As [`Function::read_register32`].
    fn read_register64(&self, offset: u32) -> Result<u64, FunctionError> {
        let low = self.read_register32(offset)?;
        let high = self.read_register32(offset.saturating_add(4))?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    /// Writes the 64-bit register at `offset` as two 32-bit accesses, the low half first.
    ///
    /// # Errors
    /// As [`Function::read_register32`].
    fn write_register64(&self, offset: u32, value: u64) -> Result<(), FunctionError> {
        self.write_register32(offset, value as u32)?;
        self.write_register32(offset.saturating_add(4), (value >> 32) as u32)
    }

    /// The doorbell at `offset` bytes into BAR0. It stays valid memory for as long as it is held, even when the
    /// function is closed or unplugged meanwhile.
    ///
    /// # Errors
    /// [`FunctionError::OutOfBounds`] or [`FunctionError::Misaligned`] when no doorbell can be there.
    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError>;

    /// Lets the device do DMA. Called once the controller is known to be disabled: one that an earlier owner left
    /// enabled would go on with that owner's queues, whose addresses name other memory now.
    ///
    /// # Errors
    /// [`FunctionError::Io`] when the kernel refuses.
    fn allow_dma(&self) -> Result<(), FunctionError> {
        Ok(())
    }

    /// Cuts the device off from memory, whatever its controller does: when this succeeds it does no DMA any more, until
    /// [`Function::allow_dma`]. For a controller that cannot be stopped by its own registers, or is gone.
    ///
    /// # Errors
    /// [`FunctionError::Gone`] when the device does not answer, so that nothing is known of what it does;
    /// [`FunctionError::Io`] when the kernel refuses.
    fn forbid_dma(&self) -> Result<(), FunctionError>;

    /// Gives the device back for good. When this succeeds it reaches memory no more, whatever state it is in: the proof
    /// that is left when it answers nothing any more.
    ///
    /// # Errors
    /// When it may still reach memory. It is given back all the same.
    fn close(self: Box<Self>) -> Result<(), FunctionError> {
        self.forbid_dma()
    }

    /// Whether [`Function::reset`] may succeed; `false` when it is known to be [`FunctionError::Unsupported`].
    fn can_reset(&self) -> bool {
        true
    }

    /// Resets the function as a whole, and nothing but it (a function-level reset, on PCI). When this succeeds the
    /// controller is disabled and does no DMA, until [`Function::allow_dma`].
    ///
    /// # Errors
    /// [`FunctionError::Unsupported`] when it cannot be reset alone, [`FunctionError::Io`] when the reset fails.
    fn reset(&self) -> Result<(), FunctionError> {
        Err(FunctionError::Unsupported { function: self.name().to_owned(), what: "be reset alone" })
    }

    /// Makes the registers answer again, and interrupts come again, after the device was reset behind the back of whoever
    /// holds it, as by an NVM subsystem reset. It may do no DMA before [`Function::allow_dma`].
    ///
    /// # Errors
    /// [`FunctionError::Io`] when that fails; it can be tried again.
    fn revive(&self) -> Result<(), FunctionError> {
        Ok(())
    }

    /// What tells of the device's removal and of its errors before an access to it does. None of it when nobody tells.
    fn notices(&self) -> Notices {
        Notices::default()
    }

    /// Switches interrupt vectors 0 to `vectors` - 1 on, and gives what each of them signals. Fewer when the device has
    /// fewer, and none when it does not interrupt: its completions are to be looked for. Called once at most.
    ///
    /// # Errors
    /// [`FunctionError::Io`] when the kernel refuses. Nothing is switched on then.
    fn enable_interrupts(&self, _vectors: u16) -> Result<Vec<Interrupt>, FunctionError> {
        Ok(Vec::new())
    }

    /// Has the interrupts of a vector come to `cpu`, so that no other CPU is disturbed to wake who waits there.
    ///
    /// # Errors
    /// [`FunctionError::Unsupported`] when nothing is known of where they come, [`FunctionError::Io`] when the kernel
    /// refuses. They go on as before.
    fn steer_interrupt(&self, _vector: u16, _cpu: usize) -> Result<(), FunctionError> {
        Err(FunctionError::Unsupported {
            function: self.name().to_owned(),
            what: "have its interrupts steered",
        })
    }

    /// What makes the device work on queue pair `qid` (0: the admin queue), or `None` when the device runs by
    /// itself, as hardware does.
    fn stepper(&self, qid: u16) -> Option<Box<dyn Stepper>>;
}

/// What the system tells of a device, unasked. Each of them may be signalled more than once.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    /// Somebody wants the device back: it is being removed, or taken from this driver. The system waits until it is
    /// closed: stop using it, and close it.
    pub removal: Option<Interrupt>,
    /// The device's link reports an error that is not corrected. What it holds is not to be trusted: reset it.
    pub error: Option<Interrupt>,
}

/// A device without a clock of its own: it works when it is stepped, on the thread that rang its doorbell.
pub trait Stepper: Send {
    /// Lets the device do what the doorbells of this queue pair ask for.
    fn step(&mut self);
}

/// A vector of a device, as an eventfd that each interrupt adds to. It is also signalled when the controller is stopped,
/// so that who sleeps on it hears of that.
///
/// It has one reader at most: [clearing](Interrupt::clear) it takes the signal from everybody else, also from those who
/// watch for edges, since epoll looks again before it tells of one. Who shares a vector with others watches it for edges
/// and never clears it. Who has it alone may poll it for being readable, and clears it before looking at the device.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<OwnedFd>);

impl Interrupt {
    /// Of the eventfd that it signals.
    pub(crate) fn new(eventfd: Arc<OwnedFd>) -> Self {
        Self(eventfd)
    }

    /// Waits until it was signalled since it was last cleared, and clears it; `false` when `limit` passed before.
    pub fn wait(&self, limit: Duration) -> bool {
        let limit = Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // Interrupted by a signal, and every failure, is as good as the end of the time: who waits looks anyway.
        let signalled =
            poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)).is_ok_and(|count| count > 0);
        if signalled {
            self.clear();
        }
        signalled
    }

    /// Signals it, as the device does.
    pub(crate) fn signal(&self) {
        // It fails when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable until the next interrupt.
    pub fn clear(&self) {
        // Nothing to read is what was wanted.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a register or doorbell could not be reached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FunctionError {
    /// The device reads as all ones, or its memory faults: it was unplugged, or lost its power or its link. Or the
    /// process that served it ended, or hangs.
    #[error(
        "{function} no longer answers: it was removed, or lost power or its PCI link, or the process that served it has \
         ended; put it back and rescan the PCI bus, or start that process again, and open it again"
    )]
    Gone {
        /// Name of the function.
        function: String,
    },
    /// The function has no such ability.
    #[error("{function} cannot {what}")]
    Unsupported {
        /// Name of the function.
        function: String,
        /// What it cannot do.
        what: &'static str,
    },
    /// The offset lies outside what the function has.
    #[error("{function} has no {what} at offset {offset:#x} (it ends at {end:#x})")]
    OutOfBounds {
        /// Name of the function.
        function: String,
        /// `register` or `doorbell`.
        what: &'static str,
        /// Offset into BAR0, in bytes.
        offset: u32,
        /// First offset that is no longer part of it, in bytes.
        end: u64,
    },
    /// The offset is not a multiple of the access size.
    #[error("{function}: {what} offset {offset:#x} is not a multiple of 4")]
    Misaligned {
        /// Name of the function.
        function: String,
        /// `register` or `doorbell`.
        what: &'static str,
        /// Offset into BAR0, in bytes.
        offset: u32,
    },
    /// The kernel refused an access.
    #[error("{function}: could not {action}: {source}")]
    Io {
        /// Name of the function.
        function: String,
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn an_interrupt_is_waited_for_once() {
        let eventfd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let interrupt = Interrupt::new(eventfd);
        let signal = || interrupt.signal();
        assert!(!interrupt.wait(Duration::ZERO));
        signal();
        signal();
        assert!(interrupt.wait(Duration::from_secs(3600)), "it came before anybody waited");
        assert!(!interrupt.wait(Duration::ZERO), "both are one");
        signal();
        interrupt.clear();
        interrupt.clear();
        assert!(!interrupt.wait(Duration::ZERO));
    }
}
