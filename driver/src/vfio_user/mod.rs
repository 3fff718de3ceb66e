//! NVMe controllers that another process serves over a UNIX socket: the protocol vfio-user.
//!
//! [`VfioUserFunction`] is the client: registers are reached by messages, doorbells lie in memory that the server shares
//! where it does so, interrupts are eventfds that it is given, and it reaches the memory of the [`DmaDomain`] through
//! the files that the memory is in. [`server`] is the other end: it serves an emulated controller.
//!
//! # What always holds
//!
//! - No message is waited for longer than ten seconds. A server that ended, hangs, or answers nonsense is
//!   [`FunctionError::Gone`] from then on, and never a signal or a panic.
//! - Memory is given up only when the server confirmed that it unmapped it, or has hung up. That of one that hangs is
//!   leaked. A server that hangs up is trusted to have ended, or to touch no memory any more: a process that closes its
//!   socket and goes on writing to what it mapped would write to memory that has other owners by then.
//!
//! # What this does not do
//!
//! - Limit what a server does with memory. It gets the files themselves, and may read and write all memory of the
//!   domain: it is trusted as the drives of a process trust each other. (SPDK's server demands permission to write even
//!   where a command makes it read, so permissions could not be told apart by direction either.)
//! - Answer a server that asks for memory by message: memory is shared, always.
//!
//! # Why the protocol is written here
//!
//! The crate `vfio_user` has client and server. Its client takes the reply to a mapping for success whatever it says,
//! both ends subtract and unwrap what the peer sent, there is no time limit, and it brings 30 crates. What is
//! needed of the protocol is some ten messages.

mod client;
mod error;
pub mod server;
mod socket;
mod wire;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gangway_spec::registers::{DOORBELLS, VS};
use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};
use zerocopy::IntoBytes;

use self::client::{Connection, Fate, RequestError};
pub use self::error::VfioUserError;
use self::wire::{DeviceInfo, DmaMap, DmaUnmap, IrqInfo, IrqSet, RegionInfo, command};
use crate::dma::{Direction, DmaDomain, DmaError, Iommu, RegionMemory};
use crate::function::{Function, FunctionError, Interrupt, Stepper};
use crate::mmio::{Doorbell, RemoteRegister};
use crate::vfio::AnswerError;
use crate::vfio::bar::Piece;
use crate::vfio::capability::Region;

/// Offset of the command register in the configuration space (PCI Base 3.0, 6.2.2).
const PCI_COMMAND: u64 = 4;
/// Offset of the class code and the revision.
const PCI_CLASS: u64 = 8;
/// Base class, subclass and programming interface of an NVMe controller.
const NVME_CLASS: u32 = 0x01_08_02;
/// Command register: the device answers accesses to its BARs.
const MEMORY_SPACE: u16 = 1 << 1;
/// Command register: the device may do DMA.
const BUS_MASTER: u16 = 1 << 2;
/// Command register: no interrupts by pin.
const INTERRUPT_DISABLE: u16 = 1 << 10;
/// Offset of the pointer to the first capability.
const PCI_CAPABILITIES: u64 = 0x34;
/// The identifier of the MSI-X capability (PCI Base 3.0, 6.8.2).
const MSIX_CAPABILITY: u8 = 0x11;
/// Offset of its control register, and the bit that switches MSI-X on.
const MSIX_CONTROL: u64 = 2;
const MSIX_ENABLE: u16 = 1 << 15;

/// The registers, and the doorbells of the admin queue with the shortest stride, which every controller has.
const SMALLEST_BAR: u64 = DOORBELLS as u64 + 8;

/// Room for the description of a region: some hundred areas.
const REGION_ANSWER: u32 = 4096;

/// Name of the socket in a folder that SPDK's target makes for a controller.
const SPDK_SOCKET: &str = "cntrl";

/// An NVMe controller of another process, until it is dropped.
#[derive(Debug)]
pub struct VfioUserFunction {
    name: String,
    domain: DmaDomain,
    memory: Arc<ServersMemory>,
    connection: Arc<Connection>,
    /// Bytes of BAR0.
    size: u64,
    pieces: Vec<Piece>,
}

impl VfioUserFunction {
    /// Connects to the server at `path`, a socket or a folder that SPDK's target made, and shares the memory of
    /// `domain` with it.
    ///
    /// Nothing is done to the controller yet.
    ///
    /// # Errors
    /// [`VfioUserError`] says what is in the way and what to do about it.
    pub fn open(path: &Path, domain: &DmaDomain) -> Result<Box<dyn Function>, VfioUserError> {
        Ok(Box::new(Self::open_at(path, domain)?))
    }

    fn open_at(given: &Path, domain: &DmaDomain) -> Result<Self, VfioUserError> {
        let inside = given.join(SPDK_SOCKET);
        let path = if given.is_dir() && inside.exists() { inside } else { given.to_owned() };
        let connection = Arc::new(Connection::new(connect(&path)?));
        let opening = Opening { path: &path, connection: &connection };
        opening.negotiate()?;
        opening.check_kind()?;
        let (size, pieces) = opening.registers()?;
        let function = Self {
            name: format!("vfio-user:{}", given.display()),
            domain: domain.clone(),
            memory: Arc::new(ServersMemory::new(Arc::clone(&connection))),
            connection: Arc::clone(&connection),
            size,
            pieces,
        };
        // As the kernel does for a real function. A server that could interrupt by pin would try to.
        function
            .set_command(MEMORY_SPACE | INTERRUPT_DISABLE, 0)
            .map_err(opening.failed("switch memory decoding on"))?;
        function.share_memory().map_err(|source| VfioUserError::Dma { path: path.clone(), source })?;
        tracing::debug!(function = function.name, mapped = ?function.pieces, "opened");
        Ok(function)
    }

    /// Lets the server map all memory of the domain, if it does not have it.
    fn share_memory(&self) -> Result<(), DmaError> {
        let mut shared = self.memory.shared();
        if !*shared {
            self.domain.attach(Arc::<ServersMemory>::clone(&self.memory))?;
            *shared = true;
        }
        Ok(())
    }

    /// Has the server give all memory back. Whether it did is for [`ServersMemory::is_returned`] to say.
    fn take_memory_back(&self) {
        let mut shared = self.memory.shared();
        if *shared {
            let iommu: Arc<dyn Iommu> = Arc::<ServersMemory>::clone(&self.memory);
            self.domain.detach(&iommu);
            *shared = false;
        }
    }

    fn check_offset(&self, what: &'static str, offset: u32) -> Result<(), FunctionError> {
        if !offset.is_multiple_of(4) {
            return Err(FunctionError::Misaligned { function: self.name.clone(), what, offset });
        }
        if u64::from(offset) + 4 > self.size {
            return Err(self.out_of_bounds(what, offset));
        }
        Ok(())
    }

    fn out_of_bounds(&self, what: &'static str, offset: u32) -> FunctionError {
        FunctionError::OutOfBounds { function: self.name.clone(), what, offset, end: self.size }
    }

    fn failed(&self, error: RequestError, action: String) -> FunctionError {
        match error {
            RequestError::Gone(_) => FunctionError::Gone { function: self.name.clone() },
            RequestError::Refused(source) => {
                FunctionError::Io { function: self.name.clone(), action, source }
            }
        }
    }

    fn fetch32(&self, offset: u32) -> Result<u32, RequestError> {
        if let Some(value) = self.pieces.iter().find_map(|piece| piece.read32(offset)) {
            return Ok(value);
        }
        let mut bytes = [0; 4];
        self.connection.read_region(VFIO_PCI_BAR0_REGION_INDEX, offset.into(), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn gone(&self) -> Result<(), FunctionError> {
        if self.pieces.iter().any(Piece::gone) || self.connection.fate() != Fate::Alive {
            return Err(FunctionError::Gone { function: self.name.clone() });
        }
        Ok(())
    }

    /// Sets and clears bits of the command register.
    fn set_command(&self, set: u16, clear: u16) -> Result<(), RequestError> {
        self.configure(PCI_COMMAND, set, clear)
    }

    /// Sets and clears bits of a register of the configuration space.
    fn configure(&self, offset: u64, set: u16, clear: u16) -> Result<(), RequestError> {
        let old = u16::from_le_bytes(self.read_config(offset)?);
        let new = (old & !clear | set).to_le_bytes();
        self.connection.write_region(VFIO_PCI_CONFIG_REGION_INDEX, offset, &new)
    }

    fn read_config<const N: usize>(&self, offset: u64) -> Result<[u8; N], RequestError> {
        let mut bytes = [0; N];
        self.connection.read_region(VFIO_PCI_CONFIG_REGION_INDEX, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the MSI-X capability is.
    fn msix_capability(&self) -> Result<Option<u64>, RequestError> {
        let [mut place] = self.read_config(PCI_CAPABILITIES)?;
        // There is room for 48 in 256 bytes; a list that runs in circles is left then.
        for _ in 0..48 {
            place &= !3;
            if place == 0 {
                return Ok(None);
            }
            let [id, next] = self.read_config(place.into())?;
            if id == MSIX_CAPABILITY {
                return Ok(Some(place.into()));
            }
            place = next;
        }
        Ok(None)
    }

    fn set_vectors(&self, wanted: u16) -> Result<Vec<Interrupt>, RequestError> {
        let question = IrqInfo {
            argsz: size_of::<IrqInfo>() as u32,
            index: VFIO_PCI_MSIX_IRQ_INDEX,
            ..IrqInfo::default()
        };
        let (info, ..) = self.connection.ask(command::DEVICE_GET_IRQ_INFO, &question)?;
        let signals = info.flags & VFIO_IRQ_INFO_EVENTFD != 0;
        let count = if signals { info.count.min(wanted.into()) } else { 0 };
        let mut interrupts = Vec::new();
        // One at a time: how many files a server takes with one message differs.
        for start in 0..count {
            let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| RequestError::Refused(error.into()))?;
            let set = IrqSet {
                argsz: size_of::<IrqSet>() as u32,
                flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                index: VFIO_PCI_MSIX_IRQ_INDEX,
                start,
                count: 1,
            };
            self.connection.request(command::DEVICE_SET_IRQS, &[set.as_bytes()], &[descriptor.as_fd()])?;
            interrupts.push(Interrupt::new(Arc::new(descriptor)));
        }
        if !interrupts.is_empty()
            && let Some(place) = self.msix_capability()?
        {
            self.configure(place + MSIX_CONTROL, MSIX_ENABLE, 0)?;
        }
        Ok(interrupts)
    }
}

impl Function for VfioUserFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn domain(&self) -> &DmaDomain {
        &self.domain
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        self.check_offset("register", offset)?;
        let read = |offset| {
            self.fetch32(offset)
                .map_err(|error| self.failed(error, format!("read the register at {offset:#x}")))
        };
        let value = read(offset)?;
        self.gone()?;
        // Behind the server may be a real drive, and that may be gone while the server is not.
        if value == u32::MAX && (offset == VS || read(VS)? == u32::MAX) {
            return Err(FunctionError::Gone { function: self.name.clone() });
        }
        Ok(value)
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.check_offset("register", offset)?;
        if !self.pieces.iter().any(|piece| piece.write32(offset, value)) {
            self.connection
                .write_region(VFIO_PCI_BAR0_REGION_INDEX, offset.into(), &value.to_le_bytes())
                .map_err(|error| self.failed(error, format!("write the register at {offset:#x}")))?;
        }
        self.gone()
    }

    fn allow_dma(&self) -> Result<(), FunctionError> {
        self.share_memory().map_err(|error| FunctionError::Io {
            function: self.name.clone(),
            action: "share memory".to_owned(),
            source: io::Error::other(error),
        })?;
        self.set_command(BUS_MASTER, 0)
            .map_err(|error| self.failed(error, "switch bus mastering on".to_owned()))
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        // Servers may ignore this bit: SPDK's does. What counts is that they unmap the memory, which they confirm.
        let _ = self.set_command(0, BUS_MASTER);
        self.take_memory_back();
        if self.memory.is_returned() {
            return Ok(());
        }
        Err(FunctionError::Io {
            function: self.name.clone(),
            action: "take memory back".to_owned(),
            source: io::Error::other("the server did not confirm that it unmapped it"),
        })
    }

    fn can_reset(&self) -> bool {
        false
    }

    fn enable_interrupts(&self, vectors: u16) -> Result<Vec<Interrupt>, FunctionError> {
        self.set_vectors(vectors)
            .map_err(|error| self.failed(error, format!("switch {vectors} interrupts on")))
    }

    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError> {
        self.check_offset("doorbell", offset)?;
        if offset < DOORBELLS {
            return Err(self.out_of_bounds("doorbell", offset));
        }
        let shared = self.pieces.iter().find_map(|piece| piece.doorbell(offset));
        Ok(shared.unwrap_or_else(|| {
            let connection = Arc::clone(&self.connection);
            Doorbell::remote(Box::new(DistantDoorbell { connection, offset }))
        }))
    }

    fn stepper(&self, _qid: u16) -> Option<Box<dyn Stepper>> {
        None
    }
}

impl Drop for VfioUserFunction {
    fn drop(&mut self) {
        if let Err(error) = self.forbid_dma() {
            tracing::warn!(%error, "a server goes on with memory of this process");
        }
        self.connection.close();
    }
}

/// A doorbell that the server does not share: each ring is a message, and costs two system calls here and two there.
#[derive(Debug)]
struct DistantDoorbell {
    connection: Arc<Connection>,
    offset: u32,
}

impl RemoteRegister for DistantDoorbell {
    fn write(&self, value: u32) {
        // A ring that is lost is noticed by who waits for its completion, as that of a drive that was pulled out.
        let _ = self.connection.write_region(
            VFIO_PCI_BAR0_REGION_INDEX,
            self.offset.into(),
            &value.to_le_bytes(),
        );
    }
}

/// The server's view of this process's memory.
#[derive(Debug)]
struct ServersMemory {
    connection: Arc<Connection>,
    /// Whether the domain knows of it.
    shared: Mutex<bool>,
    /// Whether the server kept what it was to unmap.
    kept: AtomicBool,
}

impl ServersMemory {
    fn new(connection: Arc<Connection>) -> Self {
        Self { connection, shared: Mutex::new(false), kept: AtomicBool::new(false) }
    }

    fn shared(&self) -> MutexGuard<'_, bool> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server has unmapped all that it was to unmap, or has hung up.
    fn is_returned(&self) -> bool {
        !self.kept.load(Ordering::Acquire)
    }
}

impl Iommu for ServersMemory {
    fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        // Servers look addresses up in a table, so all will do; 48 bits are what real devices have.
        vec![0..=(1 << 48) - 1]
    }

    fn map(&self, iova: u64, memory: &RegionMemory, _direction: Direction) -> Result<(), DmaError> {
        let len = memory.len() as u64;
        let map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: DmaMap::READ | DmaMap::WRITE,
            offset: 0,
            address: iova,
            size: len,
        };
        self.connection
            .request(command::DMA_MAP, &[map.as_bytes()], &[memory.fd()])
            .map(drop)
            .map_err(|error| DmaError::Map { iova, len, source: error.into_io() })
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), DmaError> {
        let unmap = DmaUnmap { argsz: size_of::<DmaUnmap>() as u32, flags: 0, address: iova, size: len };
        match self.connection.request(command::DMA_UNMAP, &[unmap.as_bytes()], &[]) {
            Ok(_) => Ok(()),
            Err(RequestError::Gone(_)) if self.connection.fate() == Fate::Ended => Ok(()),
            Err(error) => {
                self.kept.store(true, Ordering::Release);
                Err(DmaError::Unmap { iova, len, source: error.into_io() })
            }
        }
    }
}

/// A connection on which the questions of the start are asked.
struct Opening<'a> {
    path: &'a Path,
    connection: &'a Connection,
}

impl Opening<'_> {
    fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn failed(&self, action: &'static str) -> impl Fn(RequestError) -> VfioUserError {
        let path = self.path();
        move |error| VfioUserError::Request { path: path.clone(), action, source: error.into_io() }
    }

    fn negotiate(&self) -> Result<(), VfioUserError> {
        let version = self.connection.negotiate();
        if self.connection.fate() == Fate::Ended {
            return Err(VfioUserError::Busy { path: self.path() });
        }
        match version.map_err(self.failed("agree on a version"))? {
            (wire::MAJOR, _) => Ok(()),
            (major, minor) => Err(VfioUserError::Version { path: self.path(), major, minor }),
        }
    }

    /// That the device is an NVMe controller on PCI.
    fn check_kind(&self) -> Result<(), VfioUserError> {
        let question = DeviceInfo { argsz: size_of::<DeviceInfo>() as u32, ..DeviceInfo::default() };
        let (info, ..) = self
            .connection
            .ask(command::DEVICE_GET_INFO, &question)
            .map_err(self.failed("ask for the device"))?;
        let not = |why| VfioUserError::NotNvme { path: self.path(), why };
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 || info.regions <= VFIO_PCI_CONFIG_REGION_INDEX {
            return Err(not("the device is no PCI function".to_owned()));
        }
        let mut class = [0; 4];
        self.connection
            .read_region(VFIO_PCI_CONFIG_REGION_INDEX, PCI_CLASS, &mut class)
            .map_err(self.failed("read the PCI class"))?;
        match u32::from_le_bytes(class) >> 8 {
            NVME_CLASS => Ok(()),
            class => Err(not(format!("its PCI class is {class:06x}h, that of NVMe is {NVME_CLASS:06x}h"))),
        }
    }

    /// The size of BAR0, and the parts of it that the server shares.
    fn registers(&self) -> Result<(u64, Vec<Piece>), VfioUserError> {
        let question =
            RegionInfo { argsz: REGION_ANSWER, index: VFIO_PCI_BAR0_REGION_INDEX, ..RegionInfo::default() };
        let asked = self.connection.ask(command::DEVICE_GET_REGION_INFO, &question);
        let (_, answer, files) = asked.map_err(self.failed("ask for the registers"))?;
        let region = Region::parse_as_is(&answer).map_err(|source| VfioUserError::Answer {
            path: self.path(),
            what: "its registers",
            source,
        })?;
        if region.size < SMALLEST_BAR {
            let why =
                format!("BAR0 has {} bytes, an NVMe controller has {SMALLEST_BAR} at least", region.size);
            return Err(VfioUserError::NotNvme { path: self.path(), why });
        }
        Ok((region.size, self.shared(&region, &files)?))
    }

    /// Maps what of the region is shared: each part has a file of its own, or all have one.
    fn shared(&self, region: &Region, files: &[OwnedFd]) -> Result<Vec<Piece>, VfioUserError> {
        let page = rustix::param::page_size() as u64;
        let mut pieces = Vec::new();
        for (index, area) in region.mappable.iter().enumerate() {
            if area.len == 0 {
                continue;
            }
            let file = if files.len() == region.mappable.len() { files.get(index) } else { files.first() };
            let Some(file) = file else { continue };
            if !area.offset.is_multiple_of(page)
                || area.offset.checked_add(area.len).is_none_or(|end| end > region.size)
            {
                let source = AnswerError::AreaOutside { offset: area.offset, len: area.len };
                return Err(VfioUserError::Answer { path: self.path(), what: "its registers", source });
            }
            let piece = Piece::map(file, region.file_offset, *area).map_err(|source| {
                VfioUserError::Request { path: self.path(), action: "map the registers", source }
            })?;
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

/// Connects; never waits, as a server that has no room for clients is of no use.
fn connect(path: &Path) -> Result<UnixStream, VfioUserError> {
    let path_buf = || path.to_owned();
    UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => VfioUserError::NotFound { path: path_buf() },
        io::ErrorKind::ConnectionRefused => VfioUserError::Deserted { path: path_buf() },
        io::ErrorKind::PermissionDenied => VfioUserError::Permission { path: path_buf() },
        io::ErrorKind::InvalidInput => VfioUserError::PathTooLong { path: path_buf() },
        _ => VfioUserError::Connect { path: path_buf(), source },
    })
}
