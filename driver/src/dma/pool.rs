//! Buffers of many sizes from one region.

use std::sync::Arc;

use super::buffer::{BLOCK, Home};
use super::{Direction, DmaBuffer, DmaDomain, DmaError};

const NONE: u32 = u32::MAX;

/// Buffers of one size that are kept as they are, at most.
const KEPT: usize = 128;

/// A buddy allocator over one region: buffers are powers of two of 4 KiB pages, split from larger ones and joined
/// again when their room is needed for one. It belongs to one thread, and taking or putting back allocates nothing.
///
/// Buffers that come back are kept as they are for the next command of their size, the last one first: its bytes are
/// most likely still in the CPU's caches.
#[derive(Debug)]
pub struct BufferPool {
    home: Arc<Home>,
    /// First free block of each order, in units of the smallest block.
    heads: Vec<u32>,
    blocks: Vec<Block>,
    /// Buffers kept as they are, by order.
    kept: Vec<Vec<DmaBuffer>>,
    /// Bytes free.
    available: usize,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    state: State,
    previous: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// First block of a free area of this order.
    Free(u8),
    /// First block of a buffer of this order that somebody has.
    Taken(u8),
    /// Inside one of these.
    Inside,
}

impl BufferPool {
    /// A pool of at least `total` bytes, whose buffers are `largest` bytes at most. `largest` is rounded up to a power
    /// of two of pages, `total` to a multiple of that.
    ///
    /// # Errors
    /// As [`DmaDomain::allocate`].
    pub fn new(
        domain: &DmaDomain,
        direction: Direction,
        total: usize,
        largest: usize,
    ) -> Result<BufferPool, DmaError> {
        const MOST: usize = (u32::MAX as usize) * BLOCK;
        // A power of two that a buffer's length can say.
        const LARGEST: usize = 1 << (u32::BITS - 1);
        if total > MOST || largest > LARGEST {
            return Err(DmaError::BadLength { len: total.max(largest) });
        }
        let largest_blocks = largest.div_ceil(BLOCK).max(1).next_power_of_two();
        let total_blocks = total.div_ceil(BLOCK).max(1).next_multiple_of(largest_blocks);
        if total_blocks >= NONE as usize {
            return Err(DmaError::BadLength { len: total });
        }
        let region = domain.allocate(total_blocks * BLOCK, direction)?;
        let orders = largest_blocks.trailing_zeros() as usize + 1;
        let empty = Block { state: State::Inside, previous: NONE, next: NONE };
        let mut pool = BufferPool {
            home: Home::new(region, total_blocks),
            heads: vec![NONE; orders],
            blocks: vec![empty; total_blocks],
            kept: (0..orders).map(|_| Vec::with_capacity(KEPT)).collect(),
            available: 0,
        };
        // From the end, so that the first buffers taken are the lowest.
        for block in (0..total_blocks).step_by(largest_blocks).rev() {
            pool.push(block, orders as u8 - 1);
            pool.available += largest_blocks * BLOCK;
        }
        Ok(pool)
    }

    /// A buffer with room for `len` bytes, with that length set, or `None` when no free area is large enough.
    #[inline]
    pub fn take(&mut self, len: usize) -> Option<DmaBuffer> {
        let order = order_for(len);
        if let Some(mut buffer) = self.kept.get_mut(order)?.pop() {
            buffer.set_len(len);
            self.available -= BLOCK << order;
            return Some(buffer);
        }
        self.cut(order, len)
    }

    /// Makes a buffer of a free area, or of what is left when all that is free has been joined.
    #[cold]
    fn cut(&mut self, order: usize, len: usize) -> Option<DmaBuffer> {
        let capacity = BLOCK << order;
        let block = self.take_block(order).or_else(|| {
            self.join();
            self.take_block(order)
        })?;
        self.available -= capacity;
        Some(DmaBuffer::new(Arc::clone(&self.home), block * BLOCK, capacity, len))
    }

    /// Whether [`take`](Self::take) would find a buffer with room for `len` bytes.
    pub fn has(&mut self, len: usize) -> bool {
        let order = order_for(len);
        let free = |heads: &[u32]| heads.iter().skip(order).any(|head| *head != NONE);
        if self.kept.get(order).is_some_and(|kept| !kept.is_empty()) || free(&self.heads) {
            return true;
        }
        self.join();
        free(&self.heads)
    }

    /// Gives a buffer back. One that is not of this pool is dropped, and found by its own pool.
    #[inline]
    pub fn put(&mut self, mut buffer: DmaBuffer) {
        if !buffer.belongs_to(&self.home) {
            return;
        }
        buffer.begin_at(0);
        let capacity = buffer.capacity();
        self.available += capacity;
        let kept = &mut self.kept[(capacity / BLOCK).trailing_zeros() as usize];
        if kept.len() < KEPT {
            kept.push(buffer);
        } else {
            self.give_up(buffer);
        }
    }

    /// Bytes that are free, in areas of any size. Buffers that were dropped count once their room was needed.
    pub fn available(&self) -> usize {
        self.available
    }

    /// Bytes there are, free or not.
    pub fn capacity(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    /// Size of the largest buffer that it ever gives, in bytes.
    pub fn largest(&self) -> usize {
        BLOCK << (self.heads.len() - 1)
    }

    /// What devices may do with its buffers.
    pub fn direction(&self) -> Direction {
        self.home.region().direction()
    }

    /// Makes the largest areas there can be, of all that is free.
    fn join(&mut self) {
        for order in 0..self.kept.len() {
            while let Some(buffer) = self.kept[order].pop() {
                self.give_up(buffer);
            }
        }
        let home = Arc::clone(&self.home);
        home.dropped().collect(|block, order| {
            self.available += BLOCK << order;
            self.free(block, order);
        });
    }

    fn give_up(&mut self, buffer: DmaBuffer) {
        let (offset, capacity) = buffer.into_parts();
        self.free(offset / BLOCK, (capacity / BLOCK).trailing_zeros() as u8);
    }

    fn take_block(&mut self, order: usize) -> Option<usize> {
        let found = (order..self.heads.len()).find(|&order| self.heads[order] != NONE)?;
        let block = self.heads[found] as usize;
        self.unlink(block, found as u8);
        for half in (order..found).rev() {
            self.push(block + (1 << half), half as u8);
        }
        self.blocks[block].state = State::Taken(order as u8);
        Some(block)
    }

    fn free(&mut self, mut block: usize, mut order: u8) {
        debug_assert_eq!(self.blocks[block].state, State::Taken(order), "a buffer came back twice");
        while usize::from(order) + 1 < self.heads.len() {
            let buddy = block ^ (1 << order);
            if self.blocks[buddy].state != State::Free(order) {
                break;
            }
            self.unlink(buddy, order);
            self.blocks[block].state = State::Inside;
            block &= !(1 << order);
            order += 1;
        }
        self.push(block, order);
    }

    fn push(&mut self, block: usize, order: u8) {
        let next = self.heads[usize::from(order)];
        if next != NONE {
            self.blocks[next as usize].previous = block as u32;
        }
        self.blocks[block] = Block { state: State::Free(order), previous: NONE, next };
        self.heads[usize::from(order)] = block as u32;
    }

    fn unlink(&mut self, block: usize, order: u8) {
        let Block { previous, next, .. } = self.blocks[block];
        match previous {
            NONE => self.heads[usize::from(order)] = next,
            previous => self.blocks[previous as usize].next = next,
        }
        if next != NONE {
            self.blocks[next as usize].previous = previous;
        }
        self.blocks[block] = Block { state: State::Inside, previous: NONE, next: NONE };
    }
}

/// The order of the smallest area with room for `len` bytes. Orders of the pool start at one page.
#[inline]
fn order_for(len: usize) -> usize {
    let beyond_the_first = (len.max(1) - 1) / BLOCK;
    (usize::BITS - beyond_the_first.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(pages: usize, largest: usize) -> BufferPool {
        BufferPool::new(&DmaDomain::new(), Direction::Bidirectional, pages * BLOCK, largest * BLOCK).unwrap()
    }

    #[test]
    fn orders_are_the_smallest_that_fit() {
        let cases =
            [(0, 0), (1, 0), (BLOCK, 0), (BLOCK + 1, 1), (2 * BLOCK, 1), (3 * BLOCK, 2), (5 * BLOCK, 3)];
        for (len, order) in cases {
            assert_eq!(order_for(len), order, "{len}");
        }
        assert!(order_for(usize::MAX) > 40);
    }

    #[test]
    fn an_exhausted_pool_gives_nothing_until_a_buffer_comes_back() {
        let mut pool = pool(4, 4);
        let buffers: Vec<_> = (0..4).map(|_| pool.take(BLOCK).unwrap()).collect();
        assert_eq!(pool.available(), 0);
        assert!(pool.take(1).is_none());
        for buffer in buffers {
            pool.put(buffer);
        }
        assert_eq!(pool.available(), pool.capacity());
        assert!(pool.take(5 * BLOCK).is_none(), "larger than the largest");
    }

    #[test]
    fn neighbours_join_into_the_largest_buffer_again() {
        let mut pool = pool(8, 8);
        let mut buffers: Vec<_> = (0..8).map(|_| pool.take(BLOCK).unwrap()).collect();
        // Returned in an order in which buddies come back apart from each other.
        for index in [6, 1, 4, 3, 2, 0, 1, 0] {
            assert!(pool.take(8 * BLOCK).is_none());
            pool.put(buffers.remove(index));
        }
        let whole = pool.take(8 * BLOCK).unwrap();
        assert_eq!(whole.capacity(), 8 * BLOCK);
        assert_eq!(pool.available(), 0);
    }

    #[test]
    fn areas_that_only_touch_are_not_joined_unless_they_are_buddies() {
        let mut pool = pool(4, 4);
        let buffers: Vec<_> = (0..4).map(|_| pool.take(BLOCK).unwrap()).collect();
        let [a, b, c, d] = <[DmaBuffer; 4]>::try_from(buffers).unwrap();
        pool.put(b);
        pool.put(c);
        assert!(pool.take(2 * BLOCK).is_none(), "pages 1 and 2 touch but are no aligned pair");
        pool.put(a);
        assert!(pool.take(2 * BLOCK).is_some());
        drop(d);
    }

    #[test]
    fn a_dropped_buffer_is_found_again_when_its_room_is_needed() {
        let mut pool = pool(2, 2);
        drop(pool.take(2 * BLOCK).unwrap());
        assert_eq!(pool.available(), 0);
        let again = pool.take(2 * BLOCK).expect("the dropped buffer");
        drop(again);
        drop(
            std::thread::spawn(move || pool.take(2 * BLOCK).expect("also from another thread"))
                .join()
                .unwrap(),
        );
    }

    #[test]
    fn a_buffer_put_into_the_wrong_pool_goes_back_to_its_own() {
        let (mut pool, mut other) = (pool(1, 1), pool(1, 1));
        other.put(pool.take(1).unwrap());
        assert_eq!((pool.available(), other.available()), (0, other.capacity()));
        assert!(pool.take(1).is_some());
        let _held = other.take(1).unwrap();
        assert!(other.take(1).is_none());
    }

    #[test]
    fn memory_outlives_the_pool_while_a_buffer_is_held() {
        let mut pool = pool(2, 1);
        let mut buffer = pool.take(100).unwrap();
        drop(pool);
        buffer.fill(7);
        assert!(buffer.iter().all(|&byte| byte == 7));
        assert_eq!((buffer.len(), buffer.capacity()), (100, BLOCK));
    }

    #[test]
    fn buffers_are_page_aligned_and_their_addresses_follow_their_bytes() {
        let mut pool = pool(8, 4);
        let (a, b) = (pool.take(1).unwrap(), pool.take(3 * BLOCK).unwrap());
        assert_eq!((a.iova() % 4096, b.iova() % 4096), (0, 0));
        assert_eq!(b.iova().wrapping_sub(a.iova()), (b.as_ptr() as u64).wrapping_sub(a.as_ptr() as u64));
    }

    proptest::proptest! {
        #[test]
        fn buffers_never_overlap_and_everything_comes_back(
            steps in proptest::collection::vec((1usize..9 * 4096, proptest::bool::ANY, 0usize..64), 1..200),
        ) {
            let mut pool = pool(64, 8);
            let mut held: Vec<DmaBuffer> = Vec::new();
            for (len, take, which) in steps {
                if take {
                    if let Some(buffer) = pool.take(len) {
                        assert!(buffer.capacity() >= len && len <= pool.largest());
                        let (start, end) = (buffer.iova(), buffer.iova() + buffer.capacity() as u64);
                        assert!(held.iter().all(|b| end <= b.iova() || b.iova() + b.capacity() as u64 <= start));
                        held.push(buffer);
                    } else {
                        assert!(len > pool.largest() || pool.available() < pool.capacity());
                    }
                } else if !held.is_empty() {
                    pool.put(held.swap_remove(which % held.len()));
                }
                let taken: usize = held.iter().map(DmaBuffer::capacity).sum();
                assert_eq!(pool.available() + taken, pool.capacity());
            }
            held.drain(..).for_each(|buffer| pool.put(buffer));
            let all: Vec<_> = (0..8).map(|_| pool.take(8 * BLOCK).expect("joined again")).collect();
            assert_eq!(pool.available(), 0);
            drop(all);
        }
    }
}
