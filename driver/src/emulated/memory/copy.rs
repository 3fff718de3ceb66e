//! Copies between memory of the drive and memory of the host.
//!
//! The host may change what is copied at the same time (a host that submits a buffer and goes on writing to it is at
//! fault, and the drive still has to survive it), and two queues may reach the same block at once. So neither plain
//! references nor plain loads and stores may be used. On x86-64 string instructions do it: what stands in an `asm!`
//! block is no access of the abstract machine, as with a real device's DMA. Elsewhere volatile accesses do, word by word.

/// Bytes that a processor fetches together.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// Copies `len` bytes.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes, they do not overlap, and no Rust reference to the bytes at
/// `dst` is alive.
#[inline]
pub(super) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for both ranges; the ABI keeps the direction flag clear.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") dst => _,
            inout("rsi") src => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: passed on.
    unsafe {
        copy_volatile(dst, src, len);
    }
}

/// Has the caches fetch `len` bytes that are copied from or to soon. A hint: it reads nothing, and faults never.
///
/// Into the second level, which takes more requests at a time than the first.
#[inline]
pub(super) fn prefetch(at: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(CACHE_LINE) {
        // SAFETY: a prefetch accesses nothing whatever the address is.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(
                at.wrapping_add(line).cast(),
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, len);
}

/// Sets `len` bytes to zero.
///
/// # Safety
/// `dst` is writable for `len` bytes, and no Rust reference to them is alive.
#[inline]
pub(super) unsafe fn zero(dst: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the range; the ABI keeps the direction flag clear.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") dst => _,
            in("al") 0u8,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..len {
        // SAFETY: `at` is below `len`.
        unsafe { dst.add(at).write_volatile(0) };
    }
}

/// Copies word by word where both sides are aligned, else byte by byte.
///
/// # Safety
/// As [`copy`].
#[cfg(any(test, not(target_arch = "x86_64")))]
unsafe fn copy_volatile(dst: *mut u8, src: *const u8, len: usize) {
    let word = size_of::<usize>();
    let words = if (dst as usize).is_multiple_of(word) && (src as usize).is_multiple_of(word) {
        len / word
    } else {
        0
    };
    for at in 0..words {
        // SAFETY: inside both ranges, and both are aligned.
        unsafe { dst.cast::<usize>().add(at).write_volatile(src.cast::<usize>().add(at).read_volatile()) };
    }
    for at in words * word..len {
        // SAFETY: inside both ranges.
        unsafe { dst.add(at).write_volatile(src.add(at).read_volatile()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_move_exactly_the_bytes_asked_for() {
        let source: Vec<u8> = (0..300).map(|byte| byte as u8 ^ 0x5a).collect();
        for (offset, len) in [(0, 0), (0, 1), (0, 64), (3, 64), (8, 17), (1, 255), (0, 298)] {
            for copy in [copy as unsafe fn(*mut u8, *const u8, usize), copy_volatile] {
                let mut target = vec![0u8; 301];
                // SAFETY: both vectors are longer than offset + len + 1.
                unsafe { copy(target.as_mut_ptr().add(1), source.as_ptr().add(offset), len) };
                assert_eq!(target[1..=len], source[offset..offset + len]);
                assert_eq!(target[0], 0);
                assert!(target[len + 1..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn zeroing_stops_at_the_end() {
        let mut target = [0xffu8; 100];
        // SAFETY: 10 + 80 is below 100.
        unsafe { zero(target.as_mut_ptr().add(10), 80) };
        for (at, byte) in target.iter().enumerate() {
            assert_eq!(*byte == 0, (10..90).contains(&at), "byte {at}");
        }
    }
}
