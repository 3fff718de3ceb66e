//! Owned pieces of DMA memory.
#![allow(unsafe_code)] // A buffer is a range of a region's mapping: turning it into slices happens here.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use super::marks::Marks;
use super::{Direction, DmaRegion, DmaSlice};

/// A region that is cut into buffers, and what became of buffers that were dropped instead of put back.
#[derive(Debug)]
pub(super) struct Home {
    region: DmaRegion,
    /// What makes the I/O virtual address of the address of one of its bytes, when it is added.
    shift: u64,
    dropped: Marks,
}

/// Size of the smallest block of a pool, in bytes.
pub(super) const BLOCK: usize = super::PAGE_SIZE;

impl Home {
    pub(super) fn new(region: DmaRegion, blocks: usize) -> Arc<Self> {
        let shift = region.iova().wrapping_sub(address(region.pointer(0, 0)));
        Arc::new(Self { region, shift, dropped: Marks::new(blocks) })
    }

    #[inline]
    pub(super) fn region(&self) -> &DmaRegion {
        &self.region
    }

    /// Buffers of it that were dropped instead of put back.
    pub(super) fn dropped(&self) -> &Marks {
        &self.dropped
    }
}

#[inline]
fn address(pointer: NonNull<u8>) -> u64 {
    pointer.addr().get() as u64
}

/// A piece of DMA memory that nobody else has: who holds it may read and write it, and no device touches it, since
/// it is moved into the queue pair while one may.
///
/// It begins at a page boundary, if not told otherwise. Dereferences to its first [`len`](DmaBuffer::len) bytes. What they hold after it
/// was taken from a pool is what was there before: data of another command, perhaps of another host.
///
/// A buffer of a [`BufferPool`](super::BufferPool) goes back by [`put`](super::BufferPool::put). One that is dropped
/// is found again by its pool, but more slowly.
///
/// It travels with each command, from hand to hand, so it is small: its address is reckoned from its home's.
pub struct DmaBuffer {
    pointer: NonNull<u8>,
    home: Arc<Home>,
    len: u32,
    capacity: u32,
}

/// The longest buffer there can be, in bytes.
pub(super) const LONGEST: usize = u32::MAX as usize;

// SAFETY: the buffer is the only way to its bytes, and the region it keeps alive is not tied to a thread.
unsafe impl Send for DmaBuffer {}
// SAFETY: a shared buffer only gives shared references to bytes that nobody writes meanwhile.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// One buffer of a whole region, with all of its bytes.
    ///
    /// # Panics
    /// When the region has 4 GiB or more.
    pub fn whole(region: DmaRegion) -> Self {
        let capacity = region.len();
        Self::new(Home::new(region, 0), 0, capacity, capacity)
    }

    /// `capacity` bytes of the home's region from `offset` on. The caller sees to it that no other buffer of the
    /// region overlaps them.
    pub(super) fn new(home: Arc<Home>, offset: usize, capacity: usize, len: usize) -> Self {
        assert!(len <= capacity && capacity <= LONGEST, "a buffer of {capacity} bytes, {len} of them in use");
        let pointer = home.region().pointer(offset, capacity);
        Self { pointer, home, len: len as u32, capacity: capacity as u32 }
    }

    /// I/O virtual address of the first byte. Page-aligned, but after [`begin_at`](DmaBuffer::begin_at).
    #[inline]
    pub fn iova(&self) -> u64 {
        address(self.pointer).wrapping_add(self.home.shift)
    }

    /// Bytes in use: what is dereferenced to, and what a command transfers.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no byte is in use.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes there are.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity as usize - self.start()
    }

    /// Bytes of its first page before its first byte.
    #[inline]
    fn start(&self) -> usize {
        // Regions are mapped at page boundaries, here as for devices.
        self.pointer.addr().get() % BLOCK
    }

    /// Makes the buffer begin `start` bytes into its first page, with the length it has. Bytes stay where they are: what
    /// was first is before its beginning then. See [`guarded_start`](crate::queue::guarded_start).
    ///
    /// # Panics
    /// When `start` is a page or more, or not as many bytes are left as are in use.
    #[inline]
    pub fn begin_at(&mut self, start: usize) {
        assert!(
            start < BLOCK && start + self.len() <= self.capacity as usize,
            "{} bytes do not begin {start} bytes into a buffer of {}",
            self.len,
            self.capacity
        );
        // SAFETY: back to the first byte of the whole buffer, and on to one that is inside of it.
        self.pointer = unsafe { self.pointer.sub(self.start()).add(start) };
    }

    /// Sets how many bytes are in use. Bytes that come into use hold what was last there.
    ///
    /// # Panics
    /// When `len` exceeds the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes do not fit a buffer of {}", self.capacity());
        // Not more than the capacity, which is a u32.
        self.len = len as u32;
    }

    /// What a device may do with it.
    #[inline]
    pub fn direction(&self) -> Direction {
        self.home.region().direction()
    }

    /// Whether it is a piece of `home`.
    #[inline]
    pub(super) fn belongs_to(&self, home: &Arc<Home>) -> bool {
        Arc::ptr_eq(&self.home, home)
    }

    /// Ends the buffer and gives its offset in its region and its capacity, both in bytes.
    pub(super) fn into_parts(self) -> (usize, usize) {
        let parts = (self.offset(), self.capacity as usize);
        let mut buffer = ManuallyDrop::new(self);
        // SAFETY: the buffer is not used again, and its own `drop`, which tells the home of it, does not run.
        unsafe { ptr::drop_in_place(&raw mut buffer.home) };
        parts
    }

    /// Bytes before its first page in its region.
    #[inline]
    fn offset(&self) -> usize {
        (self.iova() - self.home.region().iova()) as usize - self.start()
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        let order = (self.capacity as usize / BLOCK).trailing_zeros() as u8;
        self.home.dropped().note(self.offset() / BLOCK, order);
    }
}

impl Deref for DmaBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: len <= capacity bytes of a live mapping, initialised by the kernel; no other buffer overlaps them,
        // and no device writes them while the buffer is in hand (see the type).
        unsafe { slice::from_raw_parts(self.pointer.as_ptr(), self.len()) }
    }
}

impl DerefMut for DmaBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; nor does any device read them meanwhile.
        unsafe { slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len()) }
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer")
            .field("iova", &format_args!("{:#x}", self.iova()))
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .field("direction", &self.direction())
            .finish()
    }
}

/// The memory that a command transfers from or to. It travels with the command and comes back with its completion.
#[derive(Debug, Default)]
pub enum CommandData {
    /// The command transfers nothing.
    #[default]
    None,
    /// A buffer of the command's own.
    Buffer(DmaBuffer),
    /// A piece of a receive chunk, which the device only reads.
    Shared(DmaSlice),
}

// It is moved several times for each command.
const _: () = assert!(size_of::<CommandData>() == 32);

impl CommandData {
    /// Bytes to transfer.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            CommandData::None => 0,
            CommandData::Buffer(buffer) => buffer.len(),
            CommandData::Shared(slice) => slice.len(),
        }
    }

    /// Whether there is nothing to transfer.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// I/O virtual address of the first byte, if there is memory.
    #[inline]
    pub fn iova(&self) -> Option<u64> {
        match self {
            CommandData::None => None,
            CommandData::Buffer(buffer) => Some(buffer.iova()),
            CommandData::Shared(slice) => Some(slice.iova()),
        }
    }

    /// What a device may do with it, if there is memory.
    #[inline]
    pub fn direction(&self) -> Option<Direction> {
        match self {
            CommandData::None => None,
            CommandData::Buffer(buffer) => Some(buffer.direction()),
            CommandData::Shared(_) => Some(Direction::DeviceReads),
        }
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            CommandData::None => &[],
            CommandData::Buffer(buffer) => buffer,
            CommandData::Shared(slice) => slice,
        }
    }
}

impl From<DmaBuffer> for CommandData {
    fn from(buffer: DmaBuffer) -> Self {
        CommandData::Buffer(buffer)
    }
}

impl From<DmaSlice> for CommandData {
    fn from(slice: DmaSlice) -> Self {
        CommandData::Shared(slice)
    }
}
