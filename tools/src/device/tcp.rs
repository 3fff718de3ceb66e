//! A subsystem behind NVMe/TCP, through the host's side of `gangway-fabric`.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gangway_driver::controller::TimeLimits;
use gangway_fabric::host::Tag;
use gangway_fabric::host::client::{AdminQueue, HostIdentity, IoQueue, Options, Queue, Transfer};
use gangway_spec::fabrics::{HostId, Nqn};
use gangway_spec::registers::{self, ControllerCapabilities};
use gangway_spec::{IdentifyController, SubmissionQueueEntry};

use super::{Answer, Data, Device, QueueKind, Ticket};

/// Where Linux hosts keep their name and their identifier.
const HOST_NQN: &str = "/etc/nvme/hostnqn";
const HOST_ID: &str = "/etc/nvme/hostid";
/// Most bytes of a command that the tools ask for.
const MAX_TRANSFER: u64 = 1 << 20;

/// An association, with an I/O queue when one is needed.
pub(super) struct Tcp {
    admin: AdminQueue,
    io: Option<IoQueue>,
    identify: Box<IdentifyController>,
    max_transfer: usize,
    next: u64,
    outstanding: HashMap<u64, (QueueKind, Tag)>,
    /// Answers that nobody has asked for so far.
    answers: HashMap<u64, Answer>,
}

impl Tcp {
    pub(super) fn open(address: SocketAddr, subsystem: &Nqn, host: Option<&Nqn>) -> anyhow::Result<Self> {
        let identity = identity(host)?;
        let mut admin = AdminQueue::connect(address, subsystem, &identity, &Options::default())?;
        admin.enable()?;
        let capabilities = ControllerCapabilities::from_bits(admin.property_get(registers::CAP)?);
        let identify = Box::new(admin.identify_controller()?);
        let limit = identify.max_transfer(4096 << capabilities.mpsmin()).unwrap_or(MAX_TRANSFER);
        Ok(Self {
            admin,
            io: None,
            identify,
            max_transfer: limit.min(MAX_TRANSFER) as usize,
            next: 0,
            outstanding: HashMap::new(),
            answers: HashMap::new(),
        })
    }

    fn queue(&mut self, queue: QueueKind) -> anyhow::Result<&mut Queue> {
        match queue {
            QueueKind::Admin => Ok(self.admin.queue()),
            QueueKind::Io => {
                if self.io.is_none() {
                    self.admin.set_number_of_queues(1)?;
                    self.io = Some(self.admin.connect_io(1)?);
                }
                Ok(self.io.as_mut().context("there is no I/O queue")?.queue())
            }
        }
    }
}

impl Device for Tcp {
    fn is_ours(&self) -> bool {
        false
    }

    fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    fn max_transfer(&self) -> usize {
        self.max_transfer
    }

    fn time_limits(&self) -> TimeLimits {
        TimeLimits::default()
    }

    fn submit(
        &mut self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        data: Data<'_>,
    ) -> anyhow::Result<Ticket> {
        let transfer = match data {
            Data::None => Transfer::None,
            Data::In(length) => Transfer::Read(u32::try_from(length).context("too many bytes")?),
            Data::Out(bytes) => Transfer::Write(bytes.into()),
        };
        let target = self.queue(queue)?;
        let tag = target.submit(entry, transfer)?;
        target.flush()?;
        self.next += 1;
        self.outstanding.insert(self.next, (queue, tag));
        Ok(Ticket { queue, number: self.next })
    }

    fn poll(&mut self, ticket: Ticket, wait: Duration) -> anyhow::Result<Option<Answer>> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(answer) = self.answers.remove(&ticket.number) {
                return Ok(Some(answer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(completed) = self.queue(ticket.queue)?.wait(left)? else { return Ok(None) };
            let found = self.outstanding.iter().find_map(|(number, outstanding)| {
                (*outstanding == (ticket.queue, completed.tag)).then_some(*number)
            });
            if let Some(number) = found {
                self.outstanding.remove(&number);
                self.answers.insert(number, Answer { entry: completed.entry, data: completed.data });
            }
        }
    }

    fn register(&mut self, offset: u32, _bytes: u8) -> anyhow::Result<Option<u64>> {
        // Fabrics has no others (NVMe Base 2.0, figure 34).
        Ok(match offset {
            registers::CAP | registers::VS | registers::CC | registers::CSTS => {
                Some(self.admin.property_get(offset)?)
            }
            registers::NSSR | registers::CRTO => self.admin.property_get(offset).ok(),
            _ => None,
        })
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        self.io = None;
        self.outstanding.clear();
        self.admin.disable()?;
        Ok(self.admin.enable()?)
    }

    fn subsystem_reset(&mut self) -> anyhow::Result<()> {
        bail!(
            "a host cannot reset the NVM subsystem over the network: run this on the machine that has the drive, with \
             pci:ADDRESS"
        )
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        drop(self.io);
        Ok(self.admin.shutdown()?)
    }
}

/// Who this host says that it is: what was given, what Linux calls this machine, or a name made up for the occasion.
fn identity(host: Option<&Nqn>) -> anyhow::Result<HostIdentity> {
    let made_up = uuid::Uuid::new_v4();
    let stated = |path: &str| fs::read_to_string(Path::new(path)).ok().map(|text| text.trim().to_owned());
    if let Some(nqn) = host {
        return Ok(HostIdentity { nqn: nqn.clone(), id: HostId(made_up.into_bytes()) });
    }
    if let (Some(nqn), Some(id)) = (stated(HOST_NQN), stated(HOST_ID)) {
        let id = uuid::Uuid::parse_str(&id).with_context(|| format!("{HOST_ID} holds no UUID"))?;
        let nqn = nqn.parse().with_context(|| format!("{HOST_NQN} holds no NQN"))?;
        return Ok(HostIdentity { nqn, id: HostId(id.into_bytes()) });
    }
    let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{made_up}").parse()?;
    Ok(HostIdentity { nqn, id: HostId(made_up.into_bytes()) })
}
