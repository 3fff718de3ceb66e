//! A device that is open for one command: sends commands, and says what went wrong and what to do.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::{IDENTIFY_LENGTH, cns};
use gangway_spec::log::GetLogPage;
use gangway_spec::{
    IdentifyController, IdentifyNamespace, Status, SubmissionQueueEntry, admin_opcode_name, nvm_opcode_name,
    opcode,
};
use thiserror::Error;
use zerocopy::FromBytes;

use super::args::Target;
use crate::device::{self, Answer, Data, Device, QueueKind, Ticket};

/// Namespace identifiers in one Identify list.
const IDS_PER_LIST: usize = IDENTIFY_LENGTH / size_of::<u32>();
/// Lists of namespaces that are read at most: a drive could go on for ever.
const MOST_LISTS: usize = 64;
/// How long one look for an answer lasts.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// A command that the controller refused.
#[derive(Debug, Error)]
#[error("{device}: {command} failed: {status}{}", .hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
pub(super) struct Failed {
    device: String,
    command: String,
    /// What the controller answered.
    pub(super) status: Status,
    hint: Option<&'static str>,
}

/// An open device.
pub(super) struct Session {
    pub(super) device: Box<dyn Device>,
    name: String,
}

/// How the data of a namespace is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) nsid: u32,
    /// Logical blocks.
    pub(super) blocks: u64,
    /// Bytes of data of a block.
    pub(super) block: u32,
    /// Bytes of metadata of a block.
    pub(super) metadata: u16,
    /// Whether the metadata is transferred within the data.
    pub(super) extended: bool,
}

impl Geometry {
    /// Bytes that a block has on its way.
    pub(super) fn unit(&self) -> usize {
        self.block as usize + if self.extended { usize::from(self.metadata) } else { 0 }
    }
}

/// Opens a device, does something with it, and lets go of it whatever came of that.
///
/// # Errors
/// What opening it, the work, or letting go of it fails with, the first of them.
pub(super) fn with<T>(
    target: &Target,
    work: impl FnOnce(&mut Session) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let device = device::open(&target.device, target.host_nqn.as_ref())?;
    let mut session = Session { device, name: target.device.to_string() };
    let result = work(&mut session);
    let closed = session.device.close();
    let value = result?;
    closed?;
    Ok(value)
}

impl Session {
    /// The device's address, as it was given.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs an admin command that must succeed.
    pub(super) fn admin(&mut self, entry: &SubmissionQueueEntry, data: Data<'_>) -> anyhow::Result<Answer> {
        self.run(QueueKind::Admin, entry, data)
    }

    /// Runs an I/O command that must succeed.
    pub(super) fn io(&mut self, entry: &SubmissionQueueEntry, data: Data<'_>) -> anyhow::Result<Answer> {
        self.run(QueueKind::Io, entry, data)
    }

    /// Runs a command that must succeed.
    pub(super) fn run(
        &mut self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        data: Data<'_>,
    ) -> anyhow::Result<Answer> {
        let answer = self.execute(queue, entry, data, None)?;
        self.check(queue, entry, answer)
    }

    /// Runs a command and gives its answer, whatever its status. `limit`: how long it may take, when the opcode does
    /// not say.
    pub(super) fn execute(
        &mut self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        data: Data<'_>,
        limit: Option<Duration>,
    ) -> anyhow::Result<Answer> {
        let ticket = self.submit(queue, entry, data)?;
        self.wait(ticket, queue, entry, limit)
    }

    /// Waits for the answer to a command that was submitted.
    pub(super) fn wait(
        &mut self,
        ticket: Ticket,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        limit: Option<Duration>,
    ) -> anyhow::Result<Answer> {
        let limit = limit.unwrap_or_else(|| device::time_limit(&*self.device, queue, entry));
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = self.device.poll(ticket, LOOK)? {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                bail!(
                    "{}: {} did not complete within {} s",
                    self.name,
                    name(queue, entry),
                    limit.as_secs_f32()
                );
            }
        }
    }

    pub(super) fn submit(
        &mut self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        data: Data<'_>,
    ) -> anyhow::Result<Ticket> {
        let length = match data {
            Data::None => 0,
            Data::In(length) => length,
            Data::Out(bytes) => bytes.len(),
        };
        let most = self.device.max_transfer();
        ensure!(length <= most, "{}: one command transfers {most} bytes at most, not {length}", self.name);
        // A command without bytes has no buffer.
        let data = if length == 0 { Data::None } else { data };
        self.device
            .submit(queue, entry, data)
            .with_context(|| format!("{}: {}", self.name, name(queue, entry)))
    }

    /// The answer, if it is one of success.
    pub(super) fn check(
        &self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        answer: Answer,
    ) -> anyhow::Result<Answer> {
        let status = answer.entry.status();
        if status.is_success() {
            return Ok(answer);
        }
        let hint = self.way_out(queue, entry, status);
        Err(Failed { device: self.name.clone(), command: name(queue, entry), status, hint }.into())
    }

    fn way_out(
        &self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        status: Status,
    ) -> Option<&'static str> {
        let refused = [
            Status::INVALID_OPCODE,
            Status::INVALID_FIELD,
            Status::COMMAND_PROHIBITED_BY_LOCKDOWN,
            Status::OPERATION_DENIED,
            Status::FEATURE_NOT_CHANGEABLE,
        ];
        let changes = queue == QueueKind::Admin && !is_inspection(entry.opcode);
        if !self.device.is_ours() && changes && refused.iter().any(|refusal| status.is(*refusal)) {
            return Some(
                "if it is the target that does not allow it: have it served with `--allow` (`gangway serve --help`), or \
                 run the command on the machine that has the drive, with pci:ADDRESS",
            );
        }
        if status.is(Status::INVALID_NAMESPACE_OR_FORMAT) {
            return Some("`gangway list-ns` shows the namespaces there are");
        }
        if status.is(Status::SANITIZE_IN_PROGRESS) || status.is(Status::SANITIZE_FAILED) {
            return Some("`gangway sanitize-log` shows its state");
        }
        if status.is(Status::INVALID_OPCODE) {
            return Some("the drive does not have this command; `gangway id-ctrl -H` shows what it has");
        }
        status.more().then_some("`gangway error-log` has more about it")
    }

    /// Identify Controller.
    pub(super) fn controller(&self) -> &IdentifyController {
        self.device.identify()
    }

    /// 4096 bytes of Identify data.
    pub(super) fn identify(&mut self, cns: u8, nsid: u32, csi: u8) -> anyhow::Result<Vec<u8>> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.nsid.set(nsid);
        entry.cdw10.set(cns.into());
        entry.cdw11.set(u32::from(csi) << 24);
        let answer = self.admin(&entry, Data::In(IDENTIFY_LENGTH))?;
        self.whole(&entry, answer.data, IDENTIFY_LENGTH)
    }

    /// Identify Namespace.
    pub(super) fn namespace(&mut self, nsid: u32) -> anyhow::Result<Box<IdentifyNamespace>> {
        let bytes = self.identify(cns::NAMESPACE, nsid, 0)?;
        structure(&bytes)
    }

    /// Namespace identifiers of a list, from the first above `after` on.
    pub(super) fn namespaces(&mut self, cns: u8, csi: u8, after: u32) -> anyhow::Result<Vec<u32>> {
        let mut found: Vec<u32> = Vec::new();
        for _ in 0..MOST_LISTS {
            let last = found.last().copied().unwrap_or(after);
            let bytes = self.identify(cns, last, csi)?;
            let before = found.len();
            let (ids, _) = bytes.as_chunks::<4>();
            let ids = ids.iter().map(|id| u32::from_le_bytes(*id)).take_while(|&id| id != 0);
            for id in ids {
                let previous = found.last().copied().unwrap_or(after);
                ensure!(id > previous, "{}: its list of namespaces is not ascending", self.name);
                found.push(id);
            }
            if found.len() - before < IDS_PER_LIST
                || found.last().is_some_and(|&last| last >= NSID_BROADCAST - 2)
            {
                return Ok(found);
            }
        }
        bail!("{}: its list of namespaces has no end", self.name)
    }

    /// The namespace that was asked for, or the only one there is.
    pub(super) fn one_namespace(&mut self, asked: Option<u32>) -> anyhow::Result<u32> {
        if let Some(nsid) = asked {
            return Ok(nsid);
        }
        let active = self.namespaces(cns::ACTIVE_NAMESPACE_LIST, 0, 0)?;
        match active[..] {
            [nsid] => Ok(nsid),
            [] => bail!("{} has no active namespace", self.name),
            _ => {
                let ids: Vec<_> = active.iter().map(ToString::to_string).collect();
                bail!("{} has several namespaces: say which with -n ({})", self.name, ids.join(", "))
            }
        }
    }

    /// How the data of a namespace is laid out.
    pub(super) fn geometry(&mut self, nsid: u32) -> anyhow::Result<Geometry> {
        let identify = self.namespace(nsid)?;
        let blocks = identify.nsze.get();
        ensure!(
            blocks > 0,
            "{} has no active namespace {nsid}; `gangway list-ns` shows which it has",
            self.name
        );
        let block = identify.block_size();
        let block = block.with_context(|| format!("namespace {nsid} has an unusable block size"))?;
        let metadata = identify.metadata_size();
        let extended = metadata > 0 && identify.is_extended();
        Ok(Geometry { nsid, blocks, block, metadata, extended })
    }

    /// Reads a log page in as many commands as it takes. Its event is cleared by the last of them, unless the request
    /// says that it is to be retained.
    pub(super) fn log(&mut self, request: GetLogPage, nsid: u32, length: usize) -> anyhow::Result<Vec<u8>> {
        // Drives without extended data have 12 bits for the number of dwords, and no offset.
        let chunk =
            self.device.max_transfer().min(if self.has_extended_logs() { usize::MAX } else { 1 << 14 });
        ensure!(
            length <= chunk || self.has_extended_logs(),
            "{} has no log pages of more than {chunk} bytes (LPA)",
            self.name
        );
        ensure!(
            length <= chunk || !request.offset_is_index,
            "with an index as offset, {chunk} bytes can be read at most"
        );
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let part = (length - bytes.len()).min(chunk);
            let last = bytes.len() + part == length;
            let mut get = GetLogPage::new(request.lid, part as u32);
            get = GetLogPage { numd: get.numd, ..request };
            get.rae = request.rae || !last;
            get.lpo = if request.offset_is_index { request.lpo } else { request.lpo + bytes.len() as u64 };
            let mut entry = SubmissionQueueEntry::from(get);
            entry.nsid.set(nsid);
            let whole = part.next_multiple_of(4);
            let answer = self.admin(&entry, Data::In(whole))?;
            let mut data = self.whole(&entry, answer.data, whole)?;
            data.truncate(part);
            bytes.append(&mut data);
        }
        Ok(bytes)
    }

    fn has_extended_logs(&self) -> bool {
        self.controller().lpa().contains(gangway_spec::identify::Lpa::EXTENDED_DATA)
    }

    fn whole(&self, entry: &SubmissionQueueEntry, data: Vec<u8>, length: usize) -> anyhow::Result<Vec<u8>> {
        let (name, got) = (name(QueueKind::Admin, entry), data.len());
        ensure!(got == length, "{}: {name} returned {got} of {length} bytes", self.name);
        Ok(data)
    }
}

/// Bytes as a structure.
pub(super) fn structure<T: FromBytes>(bytes: &[u8]) -> anyhow::Result<Box<T>> {
    T::read_from_prefix(bytes)
        .map(|(value, _)| Box::new(value))
        .map_err(|_| anyhow::anyhow!("{} bytes are too few: {} are needed", bytes.len(), size_of::<T>()))
}

/// Whether an admin command only looks.
pub(super) fn is_inspection(code: u8) -> bool {
    use opcode::admin;
    matches!(
        code,
        admin::IDENTIFY
            | admin::GET_LOG_PAGE
            | admin::GET_FEATURES
            | admin::GET_LBA_STATUS
            | admin::DIRECTIVE_RECEIVE
            | admin::KEEP_ALIVE
    )
}

/// What people call a command.
pub(super) fn name(queue: QueueKind, entry: &SubmissionQueueEntry) -> String {
    let (name, kind) = match queue {
        QueueKind::Admin => (admin_opcode_name(entry.opcode), "admin"),
        QueueKind::Io => (nvm_opcode_name(entry.opcode), "I/O"),
    };
    name.map_or_else(|| format!("{kind} command {:02X}h", entry.opcode), str::to_owned)
}

#[cfg(test)]
mod tests;
