//! The system calls of VFIO, as functions that cannot be called wrongly.
//!
//! What the kernel writes comes back as plain values or as bytes that `capability.rs` parses; nothing here
//! decides anything. The interface is that of `linux/vfio.h`.
#![allow(unsafe_code)] // ioctl(2) takes pointers whose meaning depends on the request.

use std::ffi::{CStr, c_int, c_ulong, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_TYPE,
    vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info, vfio_irq_info, vfio_irq_set, vfio_region_info,
};

use crate::function::Interrupt;

/// VFIO numbers its requests with `_IO(';', 100 + n)`: no direction, no size (sizes are in each structure's
/// `argsz`).
const fn request(number: u32) -> c_ulong {
    ((VFIO_TYPE as c_ulong) << 8) | (VFIO_BASE + number) as c_ulong
}

const GET_API_VERSION: c_ulong = request(0);
const CHECK_EXTENSION: c_ulong = request(1);
const SET_IOMMU: c_ulong = request(2);
const GROUP_GET_STATUS: c_ulong = request(3);
const GROUP_SET_CONTAINER: c_ulong = request(4);
const GROUP_UNSET_CONTAINER: c_ulong = request(5);
const GROUP_GET_DEVICE_FD: c_ulong = request(6);
const DEVICE_GET_INFO: c_ulong = request(7);
const DEVICE_GET_REGION_INFO: c_ulong = request(8);
const DEVICE_GET_IRQ_INFO: c_ulong = request(9);
const DEVICE_SET_IRQS: c_ulong = request(10);
const DEVICE_RESET: c_ulong = request(11);
const IOMMU_GET_INFO: c_ulong = request(12);
const IOMMU_MAP_DMA: c_ulong = request(13);
const IOMMU_UNMAP_DMA: c_ulong = request(14);

/// An answer with capabilities is asked for again when the kernel says that it is longer. One longer than this is
/// not believed; that of a container with thousands of ranges has some 64 KiB.
const LONGEST_ANSWER: u32 = 1 << 20;

/// Version of the VFIO interface that the container speaks.
pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<i32> {
    by_value(container, GET_API_VERSION, 0)
}

/// Whether the container offers an extension (an IOMMU type, for one).
pub(super) fn has_extension(container: BorrowedFd<'_>, extension: u32) -> io::Result<bool> {
    Ok(by_value(container, CHECK_EXTENSION, c_ulong::from(extension))? > 0)
}

/// Chooses the container's IOMMU type. The container must have a group.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    by_value(container, SET_IOMMU, c_ulong::from(kind)).map(drop)
}

/// The flags of a group: viable, has a container.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, ..Default::default() };
    // SAFETY: the request reads and writes one `vfio_group_status` of the size that its `argsz` states.
    unsafe { by_pointer(group, GROUP_GET_STATUS, (&raw mut status).cast()) }?;
    Ok(status.flags)
}

/// Puts a group into a container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let container: c_int = container.as_raw_fd();
    // SAFETY: the request reads one `int`.
    unsafe { by_pointer(group, GROUP_SET_CONTAINER, (&raw const container).cast_mut().cast()) }.map(drop)
}

/// Takes a group out of its container, and so all of the container's memory away from its devices. None of them may be
/// open.
pub(super) fn unset_container(group: BorrowedFd<'_>) -> io::Result<()> {
    by_value(group, GROUP_UNSET_CONTAINER, 0).map(drop)
}

/// Resets a device alone. It does no DMA during that.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    by_value(device, DEVICE_RESET, 0).map(drop)
}

/// Opens the device of that name (a PCI address) in its group.
pub(super) fn device(group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the request reads a string that ends in NUL.
    let fd: RawFd = unsafe { by_pointer(group, GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut().cast()) }?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The flags of a device.
pub(super) fn device_flags(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = vfio_device_info { argsz: size_of::<vfio_device_info>() as u32, ..Default::default() };
    // SAFETY: the request reads and writes one `vfio_device_info` of the size that its `argsz` states.
    unsafe { by_pointer(device, DEVICE_GET_INFO, (&raw mut info).cast()) }?;
    Ok(info.flags)
}

/// A region of a device: `vfio_region_info` with the capabilities behind it.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<Vec<u8>> {
    // `argsz`, `flags` and `index` are the first three 32-bit words.
    answer(device, DEVICE_GET_REGION_INFO, size_of::<vfio_region_info>(), &[0, 0, index])
}

/// The flags of one of a device's kinds of interrupts (MSI-X, for one), and how many vectors it has.
pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> io::Result<(u32, u32)> {
    let mut info = vfio_irq_info { argsz: size_of::<vfio_irq_info>() as u32, index, ..Default::default() };
    // SAFETY: the request reads and writes one `vfio_irq_info` of the size that its `argsz` states.
    unsafe { by_pointer(device, DEVICE_GET_IRQ_INFO, (&raw mut info).cast()) }?;
    Ok((info.flags, info.count))
}

/// Makes the vectors of a kind of interrupts, from 0 on, signal these eventfds, and switches them on. When there are not
/// as many to be had, none is on, and what is returned is how many there would be; otherwise 0.
pub(super) fn signal_vectors(
    device: BorrowedFd<'_>,
    index: u32,
    eventfds: &[Interrupt],
) -> io::Result<usize> {
    let bytes = size_of::<vfio_irq_set>() + eventfds.len() * size_of::<RawFd>();
    let count = eventfds.len() as u32;
    // `argsz`, `flags`, `index`, `start` and `count`, and behind them a descriptor for each vector: 32-bit words all.
    let mut words: Vec<u32> =
        vec![bytes as u32, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, count];
    words.extend(eventfds.iter().map(|eventfd| eventfd.as_fd().as_raw_fd() as u32));
    // SAFETY: the request reads one `vfio_irq_set` and `count` descriptors behind it, as many bytes as `argsz` states.
    let available = unsafe { by_pointer(device, DEVICE_SET_IRQS, words.as_mut_ptr().cast()) }?;
    // Errors are negative, and were returned.
    Ok(available as usize)
}

/// Switches all vectors of a kind of interrupts off.
pub(super) fn switch_vectors_off(device: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // As above, without a descriptor: no vectors from 0 on is how all of them are named here.
    let bytes = size_of::<vfio_irq_set>() as u32;
    let mut words = [bytes, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, 0];
    // SAFETY: the request reads one `vfio_irq_set` and nothing behind it.
    unsafe { by_pointer(device, DEVICE_SET_IRQS, words.as_mut_ptr().cast()) }.map(drop)
}

const _: () = assert!(size_of::<vfio_irq_set>() == 5 * size_of::<u32>());

/// The properties of a container's IOMMU: `vfio_iommu_type1_info` with the capabilities behind it.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    answer(container, IOMMU_GET_INFO, size_of::<vfio_iommu_type1_info>(), &[0])
}

/// Maps `len` bytes of this process at `address` for the devices of a container, at `iova`.
///
/// # Safety
/// The devices of the container may read and, if `flags` say so, write this memory until it is unmapped: it
/// must stay allocated that long, and no Rust reference may rely on what is in it while a device may write.
pub(super) unsafe fn map_dma(
    container: BorrowedFd<'_>,
    flags: u32,
    address: *mut c_void,
    iova: u64,
    len: u64,
) -> io::Result<()> {
    let mut map = vfio_iommu_type1_dma_map {
        argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
        flags,
        vaddr: address as u64,
        iova,
        size: len,
    };
    // SAFETY: the request reads one `vfio_iommu_type1_dma_map` of the size that its `argsz` states. What it
    // does with the memory it names is the caller's promise.
    unsafe { by_pointer(container, IOMMU_MAP_DMA, (&raw mut map).cast()) }.map(drop)
}

/// Takes `len` bytes at `iova` away from the devices of a container; returns how many bytes that were.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, len: u64) -> io::Result<u64> {
    let mut unmap = vfio_iommu_type1_dma_unmap {
        argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
        iova,
        size: len,
        ..Default::default()
    };
    // SAFETY: the request reads and writes one `vfio_iommu_type1_dma_unmap` of the size that its `argsz`
    // states; no flag asks for the dirty bitmap that may follow it.
    unsafe { by_pointer(container, IOMMU_UNMAP_DMA, (&raw mut unmap).cast()) }?;
    Ok(unmap.size)
}

/// Asks for a structure that starts with `argsz` and may be followed by capabilities: `fixed` bytes first,
/// and if the kernel says in `argsz` that there is more, as much as there is.
fn answer(fd: BorrowedFd<'_>, request: c_ulong, fixed: usize, words: &[u32]) -> io::Result<Vec<u8>> {
    let mut len = fixed as u32;
    loop {
        // 64-bit words, since the structures hold 64-bit values and the kernel may be asked to align.
        let mut buffer = vec![0u64; (len as usize).div_ceil(size_of::<u64>())];
        let start: *mut u32 = buffer.as_mut_ptr().cast();
        // SAFETY: `fixed` is the size of a structure of at least as many words as are written, and the buffer
        // has that size.
        unsafe { start.copy_from_nonoverlapping(words.as_ptr(), words.len()) };
        // SAFETY: as above, for the first word.
        unsafe { start.write(len) };
        // SAFETY: the request reads and writes at most as many bytes as `argsz` states, and the buffer is
        // that long.
        unsafe { by_pointer(fd, request, start.cast()) }?;
        // SAFETY: the buffer is longer than one word.
        let needed = unsafe { start.read() };
        if needed <= len {
            let mut bytes: Vec<u8> = buffer.into_iter().flat_map(u64::to_ne_bytes).collect();
            bytes.truncate(len as usize);
            return Ok(bytes);
        }
        if needed > LONGEST_ANSWER {
            return Err(io::Error::other(format!("the kernel offers an answer of {needed} bytes")));
        }
        len = needed;
    }
}

fn by_value(fd: BorrowedFd<'_>, request: c_ulong, value: c_ulong) -> io::Result<c_int> {
    // SAFETY: the requests that are passed here take a number, not a pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, value) })
}

/// # Safety
/// `argument` points to what `request` reads and writes.
unsafe fn by_pointer(fd: BorrowedFd<'_>, request: c_ulong, argument: *mut c_void) -> io::Result<c_int> {
    // SAFETY: by the contract of this function.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) })
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_kernel() {
        // `_IO(';', 100)`, `_IO(';', 110)` and `_IO(';', 114)`.
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!((DEVICE_SET_IRQS, DEVICE_RESET), (0x3b6e, 0x3b6f));
        assert_eq!((GROUP_SET_CONTAINER, GROUP_UNSET_CONTAINER), (0x3b68, 0x3b69));
        assert_eq!(IOMMU_UNMAP_DMA, 0x3b72);
    }

    #[test]
    fn a_file_that_is_no_vfio_container_gives_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(api_version(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(iommu_info(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(region_info(file.as_fd(), 0).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
