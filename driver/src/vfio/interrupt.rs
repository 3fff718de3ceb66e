//! Interrupts through VFIO: each vector of the device, and each thing that the kernel tells of it, signals an eventfd.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_REQ_IRQ_INDEX,
};

use super::ioctl;
use crate::function::{Interrupt, Notices};

/// The kinds of interrupts that are used, the better one first. Those of wires (INTx) are not: they would have to be
/// unmasked after each, by a system call, and drives that have nothing else are looked at instead.
const KINDS: [u32; 2] = [VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX];

/// The vectors of a device that are switched on.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    kind: u32,
    interrupts: Vec<Interrupt>,
}

impl Vectors {
    /// Switches MSI-X on, or MSI, with `wanted` vectors, or with as many as the device has and the system can give: none
    /// when the device has neither.
    ///
    /// All at once, as most kernels cannot add a vector later.
    pub(super) fn enable(device: &File, wanted: u16) -> io::Result<Self> {
        for kind in KINDS {
            let interrupts = enable(device, kind, wanted)?;
            if !interrupts.is_empty() {
                return Ok(Self { kind, interrupts });
            }
        }
        Ok(Self::default())
    }

    /// What the vectors signal.
    pub(super) fn interrupts(&self) -> &[Interrupt] {
        &self.interrupts
    }

    /// Switches the same on again: the device has forgotten them in a reset that the kernel knows nothing of. The kernel
    /// takes them for on, and only changes where they go unless they are switched off first.
    pub(super) fn restore(&self, device: &File) -> io::Result<()> {
        if self.interrupts.is_empty() {
            return Ok(());
        }
        match ioctl::switch_vectors_off(device.as_fd(), self.kind) {
            // They are off, since an earlier attempt failed half-way.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            switched => switched?,
        }
        match ioctl::signal_vectors(device.as_fd(), self.kind, &self.interrupts)? {
            0 => Ok(()),
            available => {
                Err(io::Error::other(format!("only {available} of {} are left", self.interrupts.len())))
            }
        }
    }
}

fn enable(device: &File, kind: u32, wanted: u16) -> io::Result<Vec<Interrupt>> {
    let mut interrupts = (0..available(device, kind)?.min(wanted.into()))
        .map(|_| signal())
        .collect::<io::Result<Vec<Interrupt>>>()?;
    while !interrupts.is_empty() {
        let available = ioctl::signal_vectors(device.as_fd(), kind, &interrupts)?;
        if available == 0 {
            break;
        }
        // Fewer each time, so it ends.
        interrupts.truncate(available.min(interrupts.len() - 1));
    }
    Ok(interrupts)
}

/// What the kernel tells of a device, as far as it does.
pub(super) fn notices(device: &File) -> io::Result<Notices> {
    let watch = |kind| enable(device, kind, 1).map(|mut signals| signals.pop());
    Ok(Notices { removal: watch(VFIO_PCI_REQ_IRQ_INDEX)?, error: watch(VFIO_PCI_ERR_IRQ_INDEX)? })
}

/// How many vectors of a kind there are; none when the device has no such interrupts.
fn available(device: &File, kind: u32) -> io::Result<u32> {
    match ioctl::irq_info(device.as_fd(), kind) {
        Ok((flags, count)) => Ok(if flags & VFIO_IRQ_INFO_EVENTFD == 0 { 0 } else { count }),
        // What the kernel says of errors of a device that is not on PCI Express.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(0),
        Err(error) => Err(error),
    }
}

fn signal() -> io::Result<Interrupt> {
    Ok(Interrupt::new(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_device_gives_an_error() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(Vectors::enable(&file, 2).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(notices(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert!(Vectors::default().restore(&file).is_ok(), "there is nothing to restore");
    }
}
