//! What happens when memory vanishes under a running access.
//!
//! When a drive is pulled out, or its memory decoding is switched off for a reset, the kernel takes the
//! mapping of its BAR away, and the next access raises SIGBUS. The same happens when another process that
//! shares memory with this one (vfio-user) shortens its file. Neither must take the process along, and the
//! access may stand anywhere, also where doorbells are rung. So a handler puts a page of ones at the place
//! (what a dead PCI device answers), notes that the memory is gone, and lets the access run again. Writes
//! from then on end in a private page.
//!
//! A SIGBUS at any other address goes to whoever handled it before: it is somebody else's fault.
#![allow(unsafe_code)] // A signal handler, and a mapping placed over another one.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::{Mutex, PoisonError};

use crate::areas::{self, Slot};
use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// Areas that can be guarded at a time. A BAR has one area, or two around a table that may not be mapped; a
/// client of vfio-user may have some hundreds of memory.
const SLOTS: usize = 1024;

/// Sizes of huge pages: in a mapping of such, only whole ones can be replaced.
const HUGE_PAGES: [usize; 2] = [2 << 20, 1 << 30];

static AREAS: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), gone: AtomicBool::new(false) } };
        SLOTS];

/// Serialises whoever takes a slot; the handler never locks.
static TAKING: Mutex<()> = Mutex::new(());

/// What the handler needs; set before the handler is installed, never changed after.
static HANDLER: OnceLock<Handler> = OnceLock::new();

/// The handler is installed; guarded by `TAKING`.
static INSTALLED: AtomicBool = AtomicBool::new(false);

struct Handler {
    /// A file of one page of ones.
    ones: File,
    page: usize,
    previous: libc::sigaction,
}

/// A mapped area for which the handler stands in. To be dropped before the area is unmapped.
#[derive(Debug)]
pub(crate) struct BusGuard {
    slot: usize,
}

impl BusGuard {
    /// Guards the `len` bytes mapped at `start`; installs the handler when it is the first.
    ///
    /// # Errors
    /// The handler could not be installed, or too many areas are guarded.
    pub(crate) fn new(start: usize, len: usize) -> io::Result<Self> {
        let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        install()?;
        let slot = areas::take(&AREAS, start, start + len)
            .ok_or_else(|| io::Error::other(format!("{SLOTS} areas of devices are mapped already")))?;
        Ok(Self { slot })
    }

    /// Whether an access to the area has failed.
    pub(crate) fn gone(&self) -> bool {
        AREAS[self.slot].gone.load(Ordering::Acquire)
    }
}

impl Drop for BusGuard {
    fn drop(&mut self) {
        areas::release(&AREAS[self.slot]);
    }
}

/// Installs the handler once; called with `TAKING` held.
fn install() -> io::Result<()> {
    if INSTALLED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let page = rustix::param::page_size();
    let mut ones = File::from(rustix::fs::memfd_create("gangway-gone", rustix::fs::MemfdFlags::CLOEXEC)?);
    ones.write_all(&vec![0xff; page])?;

    // SAFETY: all zeroes is a `sigaction` (default action, no flags, empty mask).
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with no new action the call only writes the present one to `previous`.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let handler = HANDLER.get_or_init(|| Handler { ones, page, previous });

    let mut action = handler.previous;
    action.sa_sigaction = on_bus_error as *const () as usize;
    // On the alternative stack, because whoever handled the signal before may rely on having it.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `on_bus_error` has the signature that SA_SIGINFO asks for, and does only what a handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    INSTALLED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Does only what is allowed at any point of the program: atomic loads and stores, and raw system calls.
/// `errno` is kept.
extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(handler) = HANDLER.get() else { return };
    // SAFETY: the kernel passes a valid `siginfo_t`; for a SIGBUS that a fault raised (code above 0) it has
    // an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code > 0
        && let Some(slot) = areas::find(&AREAS, address)
    {
        slot.gone.store(true, Ordering::Release);
        // SAFETY: `errno` of this thread.
        let errno = unsafe { *libc::__errno_location() };
        let placed = stand_in(handler, slot, address);
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        if placed {
            return;
        }
    }
    pass_on(&handler.previous, signal, info, context);
}

/// Puts a page of ones where `address` is, or a huge page of zeroes when the area consists of those.
fn stand_in(handler: &Handler, slot: &Slot, address: usize) -> bool {
    let (start, end) = (slot.start.load(Ordering::SeqCst), slot.end.load(Ordering::SeqCst));
    let place = |size: usize, flags: c_int, file: c_int| {
        let page = address - address % size;
        if page < start || page + size > end {
            return false;
        }
        // SAFETY: the page lies in an area that its owner mapped for a device, or shares with another process, and
        // guards; nothing but volatile accesses and raw copies reach it, and its owner unmaps the whole area,
        // whatever lies there by then.
        let placed = unsafe {
            libc::mmap(
                page as *mut c_void,
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | flags,
                file,
                0,
            )
        };
        placed != libc::MAP_FAILED
    };
    place(handler.page, 0, handler.ones.as_raw_fd())
        || HUGE_PAGES.iter().any(|&size| place(size, libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1))
}

/// Does what would have happened without this module.
fn pass_on(previous: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`.
    let sent = unsafe { (*info).si_code } <= 0;
    match previous.sa_sigaction {
        // What a process sends is ignored, as it was. A fault never is.
        libc::SIG_IGN if sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // Back to what was; a fault then happens again and ends the process with the right signal and
            // place. SAFETY: `previous` is what the kernel reported as the action of this signal.
            unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
            if sent {
                // It would not happen again by itself.
                // SAFETY: raising a signal is allowed in a handler.
                unsafe { libc::raise(signal) };
            }
        }
        function if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the kernel would have called this address with this signature.
            let function: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(function) };
            function(signal, info, context);
        }
        function => {
            // SAFETY: as above; without SA_SIGINFO a handler takes only the number.
            let function: extern "C" fn(c_int) = unsafe { std::mem::transmute(function) };
            function(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use memmap2::{MmapOptions, MmapRaw};

    use super::*;

    /// A mapping of `pages` pages of a file, with the file.
    fn mapping(pages: usize) -> (MmapRaw, File) {
        let file =
            File::from(rustix::fs::memfd_create("registers", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let len = pages * rustix::param::page_size();
        file.set_len(len as u64).unwrap();
        (MmapOptions::new().len(len).map_raw(&file).unwrap(), file)
    }

    fn guard(map: &MmapRaw) -> BusGuard {
        BusGuard::new(map.as_mut_ptr() as usize, map.len()).unwrap()
    }

    fn read(map: &MmapRaw, offset: usize) -> u32 {
        assert!(offset + 4 <= map.len());
        // SAFETY: inside the mapping, aligned; a fault is what these tests are about.
        unsafe { map.as_ptr().add(offset).cast::<u32>().read_volatile() }
    }

    fn write(map: &MmapRaw, offset: usize, value: u32) {
        assert!(offset + 4 <= map.len());
        // SAFETY: inside the mapping, aligned; a fault is what these tests are about.
        unsafe { map.as_mut_ptr().add(offset).cast::<u32>().write_volatile(value) }
    }

    #[test]
    fn registers_that_vanish_read_as_ones_and_mark_their_device_as_gone() {
        let page = rustix::param::page_size();
        let (map, file) = mapping(3);
        let (other_map, _other_file) = mapping(1);
        let (guard, other) = (guard(&map), guard(&other_map));
        write(&map, 8, 7);
        assert_eq!(read(&map, 8), 7);
        assert!(!guard.gone());

        file.set_len(0).unwrap();
        assert_eq!(read(&map, 8), u32::MAX);
        assert_eq!(read(&map, 3 * page - 4), u32::MAX);
        assert!(guard.gone());
        assert!(!other.gone());
        assert_eq!(read(&other_map, 0), 0);
    }

    #[test]
    fn a_doorbell_write_to_vanished_registers_is_lost() {
        let (map, file) = mapping(1);
        let guard = guard(&map);
        file.set_len(0).unwrap();
        write(&map, 0, 5);
        assert!(guard.gone());
        // Another mapping of the page of ones shows that the write did not reach it.
        let (again, file) = mapping(1);
        let _guard = super::tests::guard(&again);
        file.set_len(0).unwrap();
        assert_eq!(read(&again, 0), u32::MAX);
    }

    #[test]
    fn a_slot_is_used_again_and_starts_without_the_mark() {
        for _ in 0..SLOTS + 1 {
            let (map, file) = mapping(1);
            let guard = guard(&map);
            assert!(!guard.gone());
            file.set_len(0).unwrap();
            assert_eq!(read(&map, 0), u32::MAX);
            assert!(guard.gone());
        }
    }

    const CHILD: &str = "GANGWAY_SIGBUS_CHILD";

    /// Runs this test once more in a process of its own, which faults.
    fn child(test: &str, what: &str) -> std::process::ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("sigbus::tests::{test}"), "--test-threads=1", "--nocapture"])
            .env(CHILD, what)
            .output()
            .unwrap()
            .status
    }

    fn fault_beside_a_guarded_area() {
        let (guarded, _file) = mapping(1);
        let _guard = guard(&guarded);
        let (map, file) = mapping(1);
        file.set_len(0).unwrap();
        read(&map, 0);
    }

    extern "C" fn exit_42(_: c_int) {
        // SAFETY: ends the process at once, as a handler may.
        unsafe { libc::_exit(42) }
    }

    #[test]
    fn a_fault_elsewhere_still_ends_the_process() {
        const NAME: &str = "a_fault_elsewhere_still_ends_the_process";
        if std::env::var_os(CHILD).is_some() {
            rustix::process::setrlimit(
                rustix::process::Resource::Core,
                rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
            )
            .unwrap();
            return fault_beside_a_guarded_area();
        }
        assert_eq!(child(NAME, "fault").signal(), Some(libc::SIGBUS));
    }

    #[test]
    fn a_fault_elsewhere_reaches_the_handler_that_was_there_before() {
        const NAME: &str = "a_fault_elsewhere_reaches_the_handler_that_was_there_before";
        if std::env::var_os(CHILD).is_some() {
            let handler = exit_42 as *const () as usize;
            // SAFETY: the function has the signature of a handler and does what a handler may.
            unsafe { libc::signal(libc::SIGBUS, handler) };
            return fault_beside_a_guarded_area();
        }
        assert_eq!(child(NAME, "handler").code(), Some(42));
    }

    #[test]
    fn a_signal_that_was_ignored_still_is_and_the_handler_stays() {
        const NAME: &str = "a_signal_that_was_ignored_still_is_and_the_handler_stays";
        if std::env::var_os(CHILD).is_some() {
            // SAFETY: nothing of this process relies on SIGBUS.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_IGN) };
            let (map, file) = mapping(1);
            let guard = guard(&map);
            // SAFETY: the handler returns.
            unsafe { libc::raise(libc::SIGBUS) };
            file.set_len(0).unwrap();
            assert_eq!(read(&map, 0), u32::MAX);
            assert!(guard.gone());
            return;
        }
        assert_eq!(child(NAME, "ignored").code(), Some(0));
    }
}
