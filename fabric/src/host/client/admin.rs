//! The admin queue of an association, and the way to I/O queues.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gangway_spec::fabrics::{
    ConnectCommand, ConnectData, ConnectInvalidParameter, Nqn, PropertyGet, PropertySet,
};
use gangway_spec::identify::cns;
use gangway_spec::log::GetLogPage;
use gangway_spec::registers::{self, ControllerCapabilities, ControllerConfiguration, ControllerStatus};
use gangway_spec::{
    CompletionQueueEntry, IdentifyController, IdentifyNamespace, Status, SubmissionQueueEntry, feature,
    opcode,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Completed, HostError, HostIdentity, IoQueue, Options, Queue, Transfer};
use crate::host::{ADMIN_IN_CAPSULE, Config};

/// Bytes of what Identify returns.
const IDENTIFY_LENGTH: u32 = gangway_spec::identify::IDENTIFY_LENGTH as u32;

/// How often a controller is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a shutdown may take when the controller does not say (Identify Controller's RTD3E is zero).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The admin queue of an association with a controller.
pub struct AdminQueue {
    queue: Queue,
    subsystem: Nqn,
    identity: HostIdentity,
    options: Options,
    cntlid: u16,
    configuration: ControllerConfiguration,
    /// IOCCSZ as bytes of data, once it is known.
    io_in_capsule: Option<u32>,
}

impl AdminQueue {
    /// Connects to a subsystem at `address` and gets a controller, which is not enabled yet.
    ///
    /// # Errors
    /// The target cannot be reached, breaks the protocol, or refuses.
    pub fn connect(
        address: SocketAddr,
        subsystem: &Nqn,
        identity: &HostIdentity,
        options: &Options,
    ) -> Result<AdminQueue, HostError> {
        let config = config(options, options.admin_queue_size, ADMIN_IN_CAPSULE);
        let mut queue = Queue::open(address, config, options)?;
        let data = ConnectData::new(identity.id, subsystem, &identity.nqn);
        let cntlid = connect(&mut queue, 0, config.queue_size, &data, subsystem, options)?;
        Ok(AdminQueue {
            queue,
            subsystem: subsystem.clone(),
            identity: identity.clone(),
            options: options.clone(),
            cntlid,
            configuration: ControllerConfiguration::new(),
            io_in_capsule: None,
        })
    }

    /// The controller's identifier.
    pub fn cntlid(&self) -> u16 {
        self.cntlid
    }

    /// The target.
    pub fn address(&self) -> SocketAddr {
        self.queue.address()
    }

    /// The queue as such: for commands that are not waited for at once, such as Asynchronous Event Requests.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Reads a property of four or eight bytes, such as [`registers::CAP`].
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn property_get(&mut self, offset: u32) -> Result<u64, HostError> {
        let eight = matches!(offset, registers::CAP | registers::ASQ | registers::ACQ);
        let command = if eight { PropertyGet::new64(offset) } else { PropertyGet::new32(offset) };
        Ok(self.succeed(&command.into(), Transfer::None)?.entry.result())
    }

    /// Writes a property of four bytes, such as [`registers::CC`].
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn property_set(&mut self, offset: u32, value: u32) -> Result<(), HostError> {
        self.succeed(&PropertySet::new32(offset, value).into(), Transfer::None).map(|_| ())
    }

    /// Enables the controller and waits until it is ready.
    ///
    /// # Errors
    /// The controller fails or takes longer than CAP.TO, or one of the errors of [`Queue::execute`].
    pub fn enable(&mut self) -> Result<(), HostError> {
        let cap = ControllerCapabilities::from_bits(self.property_get(registers::CAP)?);
        let css = if cap.css() & ControllerCapabilities::CSS_IO_COMMAND_SETS != 0 {
            ControllerConfiguration::CSS_ALL
        } else if cap.css() & ControllerCapabilities::CSS_NVM != 0 {
            ControllerConfiguration::CSS_NVM
        } else {
            ControllerConfiguration::CSS_ADMIN_ONLY
        };
        self.configuration = ControllerConfiguration::new()
            .with_en(true)
            .with_css(css)
            .with_mps(cap.mpsmin())
            .with_iosqes(6)
            .with_iocqes(4);
        self.property_set(registers::CC, self.configuration.into_bits())?;
        let timeout = Duration::from_millis(500) * u32::from(cap.to().max(1));
        self.poll_status("CC.EN", timeout, |status| status.rdy())
    }

    /// Resets the controller: its I/O queues are gone then.
    ///
    /// # Errors
    /// The controller takes longer than the command timeout, or one of the errors of [`Queue::execute`].
    pub fn disable(&mut self) -> Result<(), HostError> {
        self.configuration.set_en(false);
        self.property_set(registers::CC, self.configuration.into_bits())?;
        self.poll_status("CC.EN", self.options.command_timeout, |status| !status.rdy())?;
        self.queue.abandon();
        Ok(())
    }

    /// Shuts the controller down in an orderly way and ends the association.
    ///
    /// # Errors
    /// The shutdown does not complete in time, or one of the errors of [`Queue::execute`].
    pub fn shutdown(mut self) -> Result<(), HostError> {
        self.configuration.set_shn(ControllerConfiguration::SHN_NORMAL);
        self.property_set(registers::CC, self.configuration.into_bits())?;
        self.poll_status("CC.SHN", SHUTDOWN_TIMEOUT, |status| {
            status.shst() == ControllerStatus::SHST_COMPLETE
        })
    }

    /// Ends the association without a word, as a host does that is switched off.
    pub fn disconnect(self) {}

    fn poll_status(
        &mut self,
        what: &str,
        timeout: Duration,
        done: impl Fn(ControllerStatus) -> bool,
    ) -> Result<(), HostError> {
        let start = Instant::now();
        loop {
            let status = ControllerStatus::from_bits(self.property_get(registers::CSTS)? as u32);
            if done(status) {
                return Ok(());
            }
            if status.cfs() {
                return Err(HostError::ControllerFatal);
            }
            if start.elapsed() >= timeout {
                return Err(self.queue.timeout(format!("{what} in CSTS"), timeout));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Executes any admin command, and returns its completion, whatever its status, and its data.
    ///
    /// # Errors
    /// Those of [`Queue::execute`].
    pub fn command(
        &mut self,
        entry: &SubmissionQueueEntry,
        transfer: Transfer,
    ) -> Result<(CompletionQueueEntry, Vec<u8>), HostError> {
        let completed = self.queue.execute(entry, transfer)?;
        Ok((completed.entry, completed.data))
    }

    fn succeed(&mut self, entry: &SubmissionQueueEntry, transfer: Transfer) -> Result<Completed, HostError> {
        let completed = self.queue.execute(entry, transfer)?;
        let status = completed.entry.status();
        if !status.is_success() {
            return Err(HostError::Command { command: entry.display_admin().to_string(), status });
        }
        Ok(completed)
    }

    /// Executes a command that returns `length` bytes.
    fn read(&mut self, entry: &SubmissionQueueEntry, length: u32) -> Result<Vec<u8>, HostError> {
        let data = self.succeed(entry, Transfer::Read(length))?.data;
        if data.len() != length as usize {
            return Err(HostError::ShortData {
                command: entry.display_admin().to_string(),
                expected: length as usize,
                received: data.len(),
            });
        }
        Ok(data)
    }

    /// What Identify returns for a Controller or Namespace Structure value, such as [`cns::CONTROLLER`].
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn identify(&mut self, cns: u8, nsid: u32) -> Result<Vec<u8>, HostError> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.nsid.set(nsid);
        entry.cdw10.set(cns.into());
        self.read(&entry, IDENTIFY_LENGTH)
    }

    /// Identify Controller.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn identify_controller(&mut self) -> Result<IdentifyController, HostError> {
        let data = self.identify(cns::CONTROLLER, 0)?;
        let controller: IdentifyController = structure(&data, "Identify Controller")?;
        self.io_in_capsule = Some(in_capsule_data(controller.ioccsz.get()));
        Ok(controller)
    }

    /// Identify Namespace.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<IdentifyNamespace, HostError> {
        let data = self.identify(cns::NAMESPACE, nsid)?;
        structure(&data, "Identify Namespace")
    }

    /// The active namespaces, in ascending order.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn active_namespaces(&mut self) -> Result<Vec<u32>, HostError> {
        let mut namespaces = Vec::new();
        loop {
            // The list has those above this one.
            let last = namespaces.last().copied().unwrap_or(0);
            let data = self.identify(cns::ACTIVE_NAMESPACE_LIST, last)?;
            let (list, _) = data.as_chunks::<4>();
            // A list that does not ascend would be read for ever.
            let mut previous = last;
            for nsid in list.iter().map(|bytes| u32::from_le_bytes(*bytes)) {
                if nsid <= previous {
                    return Ok(namespaces);
                }
                namespaces.push(nsid);
                previous = nsid;
            }
        }
    }

    /// Reads `length` bytes (a multiple of 4, not 0) of a log page from `offset` (a multiple of 4) on. The event that
    /// announced the log page is cleared, unless `retain` says otherwise.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn log_page(
        &mut self,
        lid: u8,
        nsid: u32,
        offset: u64,
        length: u32,
        retain: bool,
    ) -> Result<Vec<u8>, HostError> {
        let get = GetLogPage { lpo: offset, rae: retain, ..GetLogPage::new(lid, length) };
        let mut entry = SubmissionQueueEntry::from(get);
        entry.nsid.set(nsid);
        self.read(&entry, length)
    }

    /// Shows a sign of life.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn keep_alive(&mut self) -> Result<(), HostError> {
        self.succeed(&SubmissionQueueEntry::new(opcode::admin::KEEP_ALIVE), Transfer::None).map(|_| ())
    }

    /// Asks for the command with identifier `cid` of queue `qid` to be aborted, and says whether it was. It completes as
    /// usual, with Command Abort Requested if so.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn abort(&mut self, qid: u16, cid: u16) -> Result<bool, HostError> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::ABORT);
        entry.cdw10.set(u32::from(cid) << 16 | u32::from(qid));
        // Bit 0: it was not aborted.
        Ok(self.succeed(&entry, Transfer::None)?.entry.dw0.get() & 1 == 0)
    }

    /// Asks for `count` I/O queues (1's based), and returns how many the controller grants.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`Queue::execute`].
    pub fn set_number_of_queues(&mut self, count: u16) -> Result<u16, HostError> {
        let count = u32::from(count);
        let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
        entry.cdw10.set(feature::fid::NUMBER_OF_QUEUES.into());
        entry.cdw11.set(feature::number_of_queues(count, count));
        let granted = self.succeed(&entry, Transfer::None)?.entry.dw0.get();
        let (submission, completion) = feature::queue_counts(granted);
        // Never more than `count`, which fits.
        Ok(submission.min(completion).min(count) as u16)
    }

    /// Connects I/O queue `qid`, at least 1, of the enabled controller.
    ///
    /// # Errors
    /// The target cannot be reached, breaks the protocol, or refuses.
    pub fn connect_io(&mut self, qid: u16) -> Result<IoQueue, HostError> {
        let in_capsule = match self.io_in_capsule {
            Some(length) => length,
            None => in_capsule_data(self.identify_controller()?.ioccsz.get()),
        };
        let config = config(&self.options, self.options.queue_size, in_capsule);
        let mut queue = Queue::open(self.address(), config, &self.options)?;
        let mut data = ConnectData::new(self.identity.id, &self.subsystem, &self.identity.nqn);
        data.cntlid.set(self.cntlid);
        connect(&mut queue, qid, config.queue_size, &data, &self.subsystem, &self.options)?;
        Ok(IoQueue { queue, qid })
    }
}

fn config(options: &Options, queue_size: u16, in_capsule: u32) -> Config {
    Config {
        hpda: options.hpda,
        digests: options.digests(),
        queue_size: queue_size.max(2),
        in_capsule: if options.in_capsule { in_capsule } else { 0 },
        fabrics_in_capsule: if options.in_capsule { ADMIN_IN_CAPSULE } else { 0 },
    }
}

/// IOCCSZ, which is in units of 16 bytes and includes the command, as bytes of data.
fn in_capsule_data(ioccsz: u32) -> u32 {
    ioccsz.saturating_mul(16).saturating_sub(size_of::<SubmissionQueueEntry>() as u32)
}

fn structure<T: FromBytes>(data: &[u8], command: &str) -> Result<T, HostError> {
    T::read_from_bytes(data).map_err(|_| HostError::ShortData {
        command: command.into(),
        expected: size_of::<T>(),
        received: data.len(),
    })
}

/// Executes Connect, and returns the controller's identifier.
fn connect(
    queue: &mut Queue,
    qid: u16,
    queue_size: u16,
    data: &ConnectData,
    subsystem: &Nqn,
    options: &Options,
) -> Result<u16, HostError> {
    let mut command = ConnectCommand::new(qid, queue_size);
    if !options.flow_control {
        command.cattr = ConnectCommand::CATTR_DISABLE_SQ_FLOW_CONTROL;
    }
    if qid == 0 {
        command.kato.set(u32::try_from(options.kato.as_millis()).unwrap_or(u32::MAX));
    }
    let completed = queue.execute(&command.into(), Transfer::Write(data.as_bytes().into()))?;
    let (status, result) = (completed.entry.status(), completed.entry.dw0.get());
    if !status.is_success() {
        let parameter =
            status.is(Status::CONNECT_INVALID_PARAMETERS).then(|| ConnectInvalidParameter::from_bits(result));
        return Err(HostError::Refused { subsystem: subsystem.clone(), qid, status, parameter });
    }
    let authentication =
        ConnectCommand::RESPONSE_AUTHENTICATION_REQUIRED | ConnectCommand::RESPONSE_SECURE_CHANNEL_REQUIRED;
    if result & authentication != 0 {
        return Err(HostError::AuthenticationRequired { subsystem: subsystem.clone() });
    }
    Ok(result as u16)
}
