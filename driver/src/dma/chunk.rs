//! Memory that sockets are received into and devices read from.
#![allow(unsafe_code)] // Writer and readers share a chunk, split at what is filled: the slices are made here.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use super::{Direction, DmaDomain, DmaError, DmaRegion, PAGE_SIZE};

/// Chunks of memory that devices may only read. A chunk is taken to be filled from a socket; slices of what was
/// filled are lent to commands; when the writer and all slices are gone, it can be taken again.
#[derive(Debug)]
pub struct ReceivePool {
    chunks: Vec<Arc<Chunk>>,
    chunk_size: usize,
}

/// One chunk. How many hold it is the count of its `Arc`; the pool's own is one of them.
#[derive(Debug)]
struct Chunk {
    pointer: NonNull<u8>,
    iova: u64,
    size: usize,
    /// Keeps the memory behind `pointer` mapped.
    _region: Arc<DmaRegion>,
}

// SAFETY: a chunk is an address range of a region that is not tied to a thread. Who may access which part of it is
// settled by `ReceiveChunk` and `DmaSlice`.
unsafe impl Send for Chunk {}
// SAFETY: as above; the fields themselves never change.
unsafe impl Sync for Chunk {}

impl ReceivePool {
    /// `count` chunks of at least `chunk_size` bytes, which is rounded up to pages.
    ///
    /// # Errors
    /// As [`DmaDomain::allocate`].
    pub fn new(domain: &DmaDomain, chunk_size: usize, count: usize) -> Result<ReceivePool, DmaError> {
        let bad = DmaError::BadLength { len: chunk_size };
        let Some(size) = chunk_size.max(1).checked_next_multiple_of(PAGE_SIZE) else { return Err(bad) };
        if u32::try_from(size).is_err() {
            return Err(bad);
        }
        let Some(total) = size.checked_mul(count) else { return Err(bad) };
        let region = Arc::new(domain.allocate(total, Direction::DeviceReads)?);
        let chunks = (0..count).map(|index| {
            let offset = index * size;
            Arc::new(Chunk {
                pointer: region.pointer(offset, size),
                iova: region.iova() + offset as u64,
                size,
                _region: Arc::clone(&region),
            })
        });
        Ok(ReceivePool { chunks: chunks.collect(), chunk_size: size })
    }

    /// A chunk that nobody refers to, empty, or `None` when all are in use.
    pub fn take(&mut self) -> Option<ReceiveChunk> {
        // The first that is free, not the next one in turn: what was used last is still in the CPU's caches, and a
        // reactor that needs few chunks keeps to these few.
        let chunk = self.chunks.iter_mut().find_map(|chunk| {
            // Nobody but the pool, and all that the others did is seen: what `Arc::get_mut` is for.
            Arc::get_mut(chunk).is_some().then(|| Arc::clone(chunk))
        })?;
        Some(ReceiveChunk { chunk, filled: 0 })
    }

    /// Size of each chunk, in bytes.
    pub fn chunk_size(&self) -> usize {
        self.chunk_size
    }

    /// How many chunks there are, in use or not.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// How many chunks nobody refers to at this moment. Looks at each.
    pub fn unused(&self) -> usize {
        self.chunks.iter().filter(|chunk| Arc::strong_count(chunk) == 1).count()
    }
}

/// The only writer of a chunk. What is filled does not change any more and can be lent out in slices.
pub struct ReceiveChunk {
    chunk: Arc<Chunk>,
    filled: usize,
}

impl ReceiveChunk {
    /// The bytes that are not filled yet. They hold what was last there.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let spare = self.chunk.size - self.filled;
        // SAFETY: the rest of the chunk from `filled` on: mapped, initialised by the kernel, and nobody else has a
        // reference to it, since slices end at `filled` and there is one writer per chunk. Devices only read.
        unsafe { slice::from_raw_parts_mut(self.chunk.pointer.add(self.filled).as_ptr(), spare) }
    }

    /// Bytes that are not filled yet.
    pub fn spare(&self) -> usize {
        self.chunk.size - self.filled
    }

    /// Notes that `count` bytes of [`spare_mut`](ReceiveChunk::spare_mut) were written.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.spare(),
            "{count} bytes were written to a chunk with room for {}",
            self.spare()
        );
        self.filled += count;
    }

    /// Bytes filled so far.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Filled bytes.
    ///
    /// # Panics
    /// When the range is not within what is filled.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.check(&range);
        // SAFETY: within what is filled, which nobody writes any more until the writer and all slices are gone.
        unsafe { slice::from_raw_parts(self.chunk.pointer.add(range.start).as_ptr(), range.len()) }
    }

    /// Lends filled bytes out, for a device to read.
    ///
    /// # Panics
    /// When the range is not within what is filled.
    pub fn slice(&self, range: Range<usize>) -> DmaSlice {
        self.check(&range);
        DmaSlice {
            // SAFETY: inside the chunk, since `filled` is.
            pointer: unsafe { self.chunk.pointer.add(range.start) },
            chunk: Arc::clone(&self.chunk),
            // Not more than a chunk has, which is a u32.
            len: range.len() as u32,
        }
    }

    fn check(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.filled,
            "bytes {range:?} of a chunk with {} filled",
            self.filled
        );
    }
}

impl fmt::Debug for ReceiveChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveChunk").field("filled", &self.filled).field("size", &self.chunk.size).finish()
    }
}

/// Bytes of a receive chunk that do not change while this exists. Devices may read them, never write.
///
/// It is small for the same reason as [`DmaBuffer`](super::DmaBuffer).
pub struct DmaSlice {
    pointer: NonNull<u8>,
    chunk: Arc<Chunk>,
    len: u32,
}

// SAFETY: it only gives shared references to bytes that nobody writes while it exists.
unsafe impl Send for DmaSlice {}
// SAFETY: as above.
unsafe impl Sync for DmaSlice {}

impl DmaSlice {
    /// I/O virtual address of the first byte. Not aligned to anything: a device needs at least a multiple of 4.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.chunk.iova + (self.pointer.addr().get() - self.chunk.pointer.addr().get()) as u64
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of it, which keeps the same chunk.
    ///
    /// # Panics
    /// When the range is not within it.
    pub fn slice(&self, range: Range<usize>) -> DmaSlice {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "bytes {range:?} of a slice of {}",
            self.len
        );
        DmaSlice {
            // SAFETY: inside the slice, which is inside the chunk.
            pointer: unsafe { self.pointer.add(range.start) },
            chunk: Arc::clone(&self.chunk),
            // Not more than this one has.
            len: range.len() as u32,
        }
    }
}

impl Deref for DmaSlice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: filled bytes of a chunk that is kept alive; the writer does not touch them and the pool does not
        // hand the chunk out again while this exists.
        unsafe { slice::from_raw_parts(self.pointer.as_ptr(), self.len()) }
    }
}

impl fmt::Debug for DmaSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaSlice")
            .field("iova", &format_args!("{:#x}", self.iova()))
            .field("len", &self.len)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_taken_again_only_when_the_writer_and_all_slices_are_gone() {
        let mut pool = ReceivePool::new(&DmaDomain::new(), 4096, 1).unwrap();
        let mut chunk = pool.take().unwrap();
        chunk.spare_mut()[..8].copy_from_slice(b"payload!");
        chunk.advance(8);
        let (first, second) = (chunk.slice(0..4), chunk.slice(4..8));
        assert!(pool.take().is_none());
        drop(chunk);
        assert!(pool.take().is_none());
        drop(first);
        assert!(pool.take().is_none());
        assert_eq!(&second[..], b"oad!");
        drop(second);
        assert_eq!(pool.unused(), 1);
        assert_eq!(pool.take().unwrap().filled(), 0);
    }

    #[test]
    fn slices_keep_their_bytes_while_the_rest_is_filled() {
        let mut pool = ReceivePool::new(&DmaDomain::new(), 8192, 2).unwrap();
        let mut chunk = pool.take().unwrap();
        chunk.spare_mut()[..3].copy_from_slice(b"abc");
        chunk.advance(3);
        let slice = chunk.slice(1..3);
        chunk.spare_mut().fill(0xee);
        chunk.advance(chunk.spare());
        assert_eq!(&slice[..], b"bc");
        assert_eq!(chunk.bytes(3..5), [0xee, 0xee]);
        assert_eq!(slice.iova() + 1, chunk.slice(2..2).iova());
        assert!(chunk.spare_mut().is_empty());
    }

    #[test]
    fn chunks_that_come_back_out_of_order_are_all_found() {
        let mut pool = ReceivePool::new(&DmaDomain::new(), 4096, 3).unwrap();
        let mut chunks: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_none());
        chunks.remove(1);
        assert!(pool.take().is_some());
        drop(chunks);
        let again: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(again.len(), 3);
    }

    #[test]
    #[should_panic(expected = "with 2 filled")]
    fn bytes_that_were_not_filled_cannot_be_lent() {
        let mut pool = ReceivePool::new(&DmaDomain::new(), 4096, 1).unwrap();
        let mut chunk = pool.take().unwrap();
        chunk.advance(2);
        let _ = chunk.slice(1..3);
    }

    #[test]
    fn a_slice_outlives_its_pool_and_travels_to_another_thread() {
        let mut pool = ReceivePool::new(&DmaDomain::new(), 4096, 1).unwrap();
        let mut chunk = pool.take().unwrap();
        chunk.spare_mut()[..2].copy_from_slice(b"ok");
        chunk.advance(2);
        let slice = chunk.slice(0..2);
        drop((chunk, pool));
        std::thread::spawn(move || assert_eq!(&slice[..], b"ok")).join().unwrap();
    }
}
