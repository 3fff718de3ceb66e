//! MSI-X through VFIO: each vector of the device signals an eventfd.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio::{VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX};

use super::ioctl;
use crate::function::Interrupt;

/// Switches MSI-X on with `wanted` vectors, or with as many as the device has and the system can give: none when the
/// device has no MSI-X.
///
/// All at once, as most kernels cannot add a vector later.
pub(super) fn enable(device: &File, wanted: u16) -> io::Result<Vec<Interrupt>> {
    let (flags, count) = ioctl::irq_info(device.as_fd(), VFIO_PCI_MSIX_IRQ_INDEX)?;
    let count = if flags & VFIO_IRQ_INFO_EVENTFD == 0 { 0 } else { count.min(wanted.into()) };
    if count == 0 {
        return Ok(Vec::new());
    }
    let descriptor = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let mut descriptors = (0..count).map(descriptor).collect::<Result<Vec<OwnedFd>, _>>()?;
    loop {
        let available = ioctl::signal_vectors(device.as_fd(), VFIO_PCI_MSIX_IRQ_INDEX, &descriptors)?;
        if available == 0 {
            break;
        }
        // Fewer each time, so it ends.
        descriptors.truncate(available.min(descriptors.len() - 1));
        if descriptors.is_empty() {
            return Ok(Vec::new());
        }
    }
    Ok(descriptors.into_iter().map(|descriptor| Interrupt::new(Arc::new(descriptor))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_device_gives_an_error() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(enable(&file, 2).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
