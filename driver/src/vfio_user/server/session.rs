//! One client and what it was given: the answers to its messages.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_IRQ_SET_DATA_TYPE_MASK, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR4_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::config_space::{self, ConfigSpace, Tables, bar0_size};
use crate::dma::{Direction, DmaError};
use crate::emulated::{ServedDevice, SharedMemory, Turns};
use crate::vfio_user::socket::{Message, Receiver, send};
use crate::vfio_user::wire::{
    DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, IrqSet, LONGEST_PAYLOAD, MAJOR, MINOR, RegionAccess,
    RegionInfo, Version, command,
};
use gangway_spec::registers::DOORBELLS;

/// What we can do, as the protocol wants it: JSON and a zero byte.
const CAPABILITIES: &[u8] = b"{\"capabilities\":{\"max_msg_fds\":64,\"max_data_xfer_size\":65536}}\0";

/// How long a client may leave its answers unread.
const REPLY_LIMIT: Duration = Duration::from_secs(2);

/// Pieces of memory that a client may map.
const MOST_MAPPINGS: usize = 512;

/// `DMA_UNMAP`: all that is mapped.
const UNMAP_ALL: u32 = 1 << 1;

/// A client.
pub(super) struct Session<'a> {
    stream: UnixStream,
    receiver: Receiver,
    device: &'a ServedDevice,
    config: ConfigSpace,
    /// BAR4: the table of vectors and their pending bits, which only the client uses.
    tables: Vec<u8>,
    /// By first address: length, and the memory where the client shares it.
    memory: BTreeMap<u64, (u64, Option<Arc<SharedMemory>>)>,
    vectors: Vec<Option<OwnedFd>>,
    negotiated: bool,
    turns: Turns,
}

/// Why a command is refused: an `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal(Errno);

/// What follows the header of a reply, and the file that goes with it.
type Answer<'a> = Result<(Vec<u8>, Option<BorrowedFd<'a>>), Refusal>;

const WRONG: Refusal = Refusal(Errno::INVAL);

fn done<'a>() -> Answer<'a> {
    Ok((Vec::new(), None))
}

impl<'a> Session<'a> {
    pub(super) fn new(stream: UnixStream, device: &'a ServedDevice) -> Self {
        let vectors = device.vectors();
        Self {
            stream,
            receiver: Receiver::default(),
            device,
            config: ConfigSpace::new(bar0_size(device.end()), vectors),
            tables: vec![0; Tables::new(vectors).size],
            memory: BTreeMap::new(),
            vectors: (0..vectors).map(|_| None).collect(),
            negotiated: false,
            turns: Turns::new(device),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether the device works at present, so that doorbells are to be looked at.
    pub(super) fn is_running(&self) -> bool {
        self.config.is_bus_master() && self.device.is_running()
    }

    /// Lets the device work. Gives whether it was asked to.
    ///
    /// # Errors
    /// The client took memory away that the device needed.
    pub(super) fn turn(&mut self) -> io::Result<bool> {
        let vectors = &self.vectors;
        let rung = self.device.turn(&mut self.turns, |vector| {
            if let Some(Some(eventfd)) = vectors.get(usize::from(vector)) {
                // A count that is full could make the device wait, and tells as much as one more.
                let mut file = [PollFd::from_borrowed_fd(eventfd.as_fd(), PollFlags::OUT)];
                if poll(&mut file, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
                    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
                }
            }
        });
        if rung
            && self.memory.values().any(|(_, memory)| memory.as_ref().is_some_and(|memory| memory.is_gone()))
        {
            return Err(io::Error::other("it shortened a file that its memory was in"));
        }
        Ok(rung)
    }

    /// Answers what has arrived.
    ///
    /// # Errors
    /// The client hung up, or sent what ends the conversation.
    pub(super) fn converse(&mut self) -> io::Result<()> {
        while let Some(message) = self.receiver.receive(self.stream.as_fd())? {
            if message.header.flags & Header::TYPE != 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it replied to nothing"));
            }
            if self.negotiated == (message.header.command == command::VERSION) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the version comes first, and once"));
            }
            self.answer(message)?;
        }
        Ok(())
    }

    fn answer(&mut self, message: Message) -> io::Result<()> {
        let Message { header, payload, files } = message;
        let device = self.device;
        let answer = match header.command {
            command::VERSION => self.version(&payload),
            command::DMA_MAP => self.map(&payload, &files),
            command::DMA_UNMAP => self.unmap(&payload),
            command::DEVICE_GET_INFO => device_info(&payload),
            command::DEVICE_GET_REGION_INFO => region_info(device, &payload),
            command::DEVICE_GET_IRQ_INFO => irq_info(device, &payload),
            command::DEVICE_SET_IRQS => self.set_irqs(&payload, files),
            command::REGION_READ => self.read(&payload),
            command::REGION_WRITE => self.write(&payload),
            command::DEVICE_RESET => {
                self.reset();
                done()
            }
            _ => Err(Refusal(Errno::NOTSUP)),
        };
        if let Err(Refusal(error)) = &answer {
            tracing::debug!(command = header.command, %error, "refused a message of the client");
        }
        if header.flags & Header::NO_REPLY != 0 {
            return Ok(());
        }
        let reply =
            Header { id: header.id, command: header.command, flags: Header::REPLY, ..Header::default() };
        let (reply, payload, file) = match answer {
            Ok((payload, file)) => (reply, payload, file),
            Err(Refusal(error)) => {
                let flags = Header::REPLY | Header::ERROR;
                (Header { flags, error: error.raw_os_error() as u32, ..reply }, Vec::new(), None)
            }
        };
        let deadline = Instant::now() + REPLY_LIMIT;
        send(self.stream.as_fd(), reply, &[&payload], file.as_slice(), deadline)
    }

    fn version(&mut self, payload: &[u8]) -> Answer<'a> {
        let (theirs, data) = parse::<Version>(payload)?;
        if theirs.major != MAJOR || data.last().is_some_and(|last| *last != 0) {
            return Err(WRONG);
        }
        self.negotiated = true;
        let ours = Version { major: MAJOR, minor: theirs.minor.min(MINOR) };
        Ok(([ours.as_bytes(), CAPABILITIES].concat(), None))
    }

    fn map(&mut self, payload: &[u8], files: &[OwnedFd]) -> Answer<'a> {
        let (map, _) = parse::<DmaMap>(payload)?;
        let (read, write) = (map.flags & DmaMap::READ != 0, map.flags & DmaMap::WRITE != 0);
        let direction = match (read, write) {
            (true, true) => Direction::Bidirectional,
            (true, false) => Direction::DeviceReads,
            (false, true) => Direction::DeviceWrites,
            (false, false) => return Err(WRONG),
        };
        if map.flags & !(DmaMap::READ | DmaMap::WRITE) != 0 || files.len() > 1 {
            return Err(WRONG);
        }
        if self.memory.len() >= MOST_MAPPINGS {
            return Err(Refusal(Errno::NOSPC));
        }
        let Some(last) = map.size.checked_sub(1).and_then(|more| map.address.checked_add(more)) else {
            return Err(WRONG);
        };
        let before = self.memory.range(..=last).next_back();
        if before.is_some_and(|(address, (size, _))| address + (size - 1) >= map.address) {
            return Err(Refusal(Errno::EXIST));
        }
        let memory = match files.first() {
            Some(file) => {
                let memory = SharedMemory::map(file.as_fd(), map.offset, map.size, write).map_err(refusal)?;
                self.device.map(map.address, Arc::clone(&memory), direction).map_err(unmappable)?;
                Some(memory)
            }
            // Memory that the client does not share. The device does not reach it, as nothing that a driver gives its
            // drive is there: it is the ROM of an emulated machine, or the like.
            None => None,
        };
        self.memory.insert(map.address, (map.size, memory));
        done()
    }

    fn unmap(&mut self, payload: &[u8]) -> Answer<'a> {
        let (unmap, _) = parse::<DmaUnmap>(payload)?;
        let addresses: Vec<u64> = match unmap.flags {
            0 => vec![unmap.address],
            UNMAP_ALL if (unmap.address, unmap.size) == (0, 0) => self.memory.keys().copied().collect(),
            _ => return Err(WRONG),
        };
        for address in addresses {
            let Some((size, memory)) = self.memory.get(&address) else { return Err(Refusal(Errno::NOENT)) };
            if unmap.flags == 0 && *size != unmap.size {
                return Err(WRONG);
            }
            if memory.is_some() {
                self.device.unmap(address, *size).map_err(unmappable)?;
            }
            self.memory.remove(&address);
        }
        Ok((unmap.as_bytes().to_vec(), None))
    }

    fn set_irqs(&mut self, payload: &[u8], files: Vec<OwnedFd>) -> Answer<'a> {
        let (set, _) = parse::<IrqSet>(payload)?;
        let range = set.start as usize..set.start.checked_add(set.count).ok_or(WRONG)? as usize;
        let action = set.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
        if set.index != VFIO_PCI_MSIX_IRQ_INDEX || action != VFIO_IRQ_SET_ACTION_TRIGGER {
            return Err(WRONG);
        }
        let vectors = self.vectors.get_mut(range).ok_or(WRONG)?;
        match set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK {
            // No vector at all: switch all off.
            VFIO_IRQ_SET_DATA_NONE if set.count == 0 && files.is_empty() => {
                self.vectors.iter_mut().for_each(|vector| *vector = None);
            }
            VFIO_IRQ_SET_DATA_EVENTFD if files.is_empty() => {
                vectors.iter_mut().for_each(|vector| *vector = None)
            }
            VFIO_IRQ_SET_DATA_EVENTFD if files.len() == vectors.len() => {
                if !files.iter().all(is_eventfd) {
                    return Err(WRONG);
                }
                vectors.iter_mut().zip(files).for_each(|(vector, file)| *vector = Some(file));
            }
            _ => return Err(WRONG),
        }
        done()
    }

    fn read(&mut self, payload: &[u8]) -> Answer<'a> {
        let (access, _) = parse::<RegionAccess>(payload)?;
        let len = access.count as usize;
        if len > LONGEST_PAYLOAD - size_of::<RegionAccess>() {
            return Err(WRONG);
        }
        let mut reply = access.as_bytes().to_vec();
        match access.region {
            VFIO_PCI_BAR0_REGION_INDEX => self.read_registers(access.offset, len, &mut reply)?,
            VFIO_PCI_BAR4_REGION_INDEX => reply.extend_from_slice(slice(&self.tables, access.offset, len)?),
            VFIO_PCI_CONFIG_REGION_INDEX => {
                reply.extend_from_slice(self.config.read(access.offset, len).ok_or(WRONG)?);
            }
            _ => return Err(WRONG),
        }
        Ok((reply, None))
    }

    fn write(&mut self, payload: &[u8]) -> Answer<'a> {
        let (access, data) = parse::<RegionAccess>(payload)?;
        if data.len() != access.count as usize {
            return Err(WRONG);
        }
        match access.region {
            VFIO_PCI_BAR0_REGION_INDEX => {
                let offset = self.registers(access.offset, data.len())?;
                if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
                    return Err(WRONG);
                }
                for (at, word) in data.chunks_exact(4).enumerate() {
                    let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    self.device.write(offset + 4 * at as u32, value);
                }
            }
            VFIO_PCI_BAR4_REGION_INDEX => {
                slice(&self.tables, access.offset, data.len())?;
                self.tables[access.offset as usize..][..data.len()].copy_from_slice(data);
            }
            VFIO_PCI_CONFIG_REGION_INDEX => {
                if self.config.write(access.offset, data).ok_or(WRONG)? {
                    self.reset();
                }
            }
            _ => return Err(WRONG),
        }
        Ok((access.as_bytes().to_vec(), None))
    }

    /// That `len` bytes at `offset` are in BAR0, of which the end may be emptiness.
    fn registers(&self, offset: u64, len: usize) -> Result<u32, Refusal> {
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= bar0_size(self.device.end()));
        if inside { u32::try_from(offset).map_err(|_| WRONG) } else { Err(WRONG) }
    }

    fn read_registers(&self, offset: u64, len: usize, into: &mut Vec<u8>) -> Result<(), Refusal> {
        let first = self.registers(offset, len)?;
        // Whole registers, of which a part may be asked for.
        let start = first / 4 * 4;
        let words = (first as usize + len - start as usize).div_ceil(4);
        let bytes: Vec<u8> =
            (0..words as u32).flat_map(|word| self.device.read(start + 4 * word).to_le_bytes()).collect();
        into.extend_from_slice(&bytes[(first - start) as usize..][..len]);
        Ok(())
    }

    fn reset(&mut self) {
        self.device.reset();
        self.config = ConfigSpace::new(bar0_size(self.device.end()), self.device.vectors());
        self.tables.fill(0);
        self.turns = Turns::new(self.device);
    }
}

fn device_info<'a>(payload: &[u8]) -> Answer<'a> {
    let (question, _) = parse::<DeviceInfo>(payload)?;
    if (question.argsz as usize) < size_of::<DeviceInfo>() {
        return Err(WRONG);
    }
    let info = DeviceInfo {
        argsz: size_of::<DeviceInfo>() as u32,
        flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
        regions: VFIO_PCI_NUM_REGIONS,
        irqs: VFIO_PCI_NUM_IRQS,
    };
    Ok((info.as_bytes().to_vec(), None))
}

fn region_info<'a>(device: &'a ServedDevice, payload: &[u8]) -> Answer<'a> {
    let (question, _) = parse::<RegionInfo>(payload)?;
    let room = question.argsz as usize;
    if room < size_of::<RegionInfo>() || question.index >= VFIO_PCI_NUM_REGIONS {
        return Err(WRONG);
    }
    let size = match question.index {
        VFIO_PCI_BAR0_REGION_INDEX => bar0_size(device.end()),
        VFIO_PCI_BAR4_REGION_INDEX => Tables::new(device.vectors()).size as u64,
        VFIO_PCI_CONFIG_REGION_INDEX => config_space::SIZE as u64,
        _ => 0,
    };
    let both = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    let mut info = RegionInfo {
        argsz: size_of::<RegionInfo>() as u32,
        flags: if size > 0 { both } else { 0 },
        index: question.index,
        size,
        ..RegionInfo::default()
    };
    if question.index != VFIO_PCI_BAR0_REGION_INDEX {
        return Ok((info.as_bytes().to_vec(), None));
    }
    let area = SparseArea {
        id: VFIO_REGION_INFO_CAP_SPARSE_MMAP as u16,
        version: 1,
        next: 0,
        areas: 1,
        reserved: 0,
        offset: DOORBELLS.into(),
        len: device.end() - u64::from(DOORBELLS),
    };
    info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
    info.argsz += size_of::<SparseArea>() as u32;
    if room < info.argsz as usize {
        // The client asks again, with the room that it was told.
        return Ok((info.as_bytes().to_vec(), None));
    }
    info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
    info.capabilities = size_of::<RegionInfo>() as u32;
    Ok(([info.as_bytes(), area.as_bytes()].concat(), Some(device.doorbells().as_fd())))
}

fn irq_info<'a>(device: &ServedDevice, payload: &[u8]) -> Answer<'a> {
    let (question, _) = parse::<IrqInfo>(payload)?;
    if (question.argsz as usize) < size_of::<IrqInfo>() || question.index >= VFIO_PCI_NUM_IRQS {
        return Err(WRONG);
    }
    let count = if question.index == VFIO_PCI_MSIX_IRQ_INDEX { device.vectors().into() } else { 0 };
    let info = IrqInfo {
        argsz: size_of::<IrqInfo>() as u32,
        flags: VFIO_IRQ_INFO_EVENTFD,
        index: question.index,
        count,
    };
    Ok((info.as_bytes().to_vec(), None))
}

/// The capability of a region of which one area can be mapped (`vfio_region_info_cap_sparse_mmap`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct SparseArea {
    id: u16,
    version: u16,
    next: u32,
    areas: u32,
    reserved: u32,
    offset: u64,
    len: u64,
}

/// The structure that a message begins with, and what follows it.
fn parse<T: FromBytes + Immutable + KnownLayout>(payload: &[u8]) -> Result<(T, &[u8]), Refusal> {
    T::read_from_prefix(payload).map_err(|_| WRONG)
}

fn slice(bytes: &[u8], offset: u64, len: usize) -> Result<&[u8], Refusal> {
    let start = usize::try_from(offset).map_err(|_| WRONG)?;
    bytes.get(start..start.checked_add(len).ok_or(WRONG)?).ok_or(WRONG)
}

fn refusal(error: io::Error) -> Refusal {
    Refusal(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

fn unmappable(_: DmaError) -> Refusal {
    WRONG
}

/// Whether a file is an eventfd: a write to anything else could make the device wait.
fn is_eventfd(file: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}
