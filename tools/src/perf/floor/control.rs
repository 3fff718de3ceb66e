//! What hosts want to know before they send I/O.

use std::time::Duration;

use anyhow::{Context, bail};
use gangway_fabric::connect::{ConnectRequest, accepted};
use gangway_fabric::properties::{Capabilities, Effect, Properties};
use gangway_fabric::target::{CapsuleData, Config, Connection, Event, Reply, Slot, Want};
use gangway_spec::fabrics::{PropertyGet, PropertySet, fctype};
use gangway_spec::identify::{Sgls, cns};
use gangway_spec::registers::{ControllerCapabilities, Version};
use gangway_spec::{IdentifyController, IdentifyNamespace, Status, SubmissionQueueEntry, feature, opcode};
use zerocopy::IntoBytes;

use super::io::CannedQueue;
use super::{LARGEST, SUBSYSTEM};

/// Bytes of data in the capsule of a write, as the real target takes them.
const IN_CAPSULE: u32 = 8192;
/// Entries of a queue at most.
const ENTRIES: u16 = 4096;
/// I/O queues of an association at most.
const QUEUES: u32 = 1024;
/// The namespace: 4 GiB in blocks of 2^12 bytes.
const BLOCKS: u64 = 1 << 20;
const LBADS: u8 = 12;

/// A connection until it turns out to be an I/O queue; for ever, if it is an admin queue.
pub(super) struct Control {
    connection: Connection,
    properties: Properties,
    cntlid: u16,
    /// The command whose data is arriving, and that data.
    arriving: Option<(SubmissionQueueEntry, Vec<u8>)>,
}

impl Control {
    pub(super) fn new(cntlid: u16) -> Self {
        let capabilities = Capabilities {
            max_queue_entries: ENTRIES,
            timeout: Duration::from_secs(1),
            css: ControllerCapabilities::CSS_NVM,
        };
        Self {
            connection: Connection::new(Config { in_capsule_data: IN_CAPSULE, max_h2c_data: LARGEST as u32 }),
            properties: Properties::new(capabilities.build(Version::V1_4), Version::V1_4),
            cntlid,
            arriving: None,
        }
    }

    /// Takes bytes, appends answers. Returns how many were taken: all, or those up to where an I/O queue begins.
    ///
    /// # Errors
    /// The host broke the protocol.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> anyhow::Result<(usize, Option<CannedQueue>)> {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let (count, event) = match self.connection.want() {
                Want::Header { .. } => match self.connection.receive(rest, out) {
                    Ok(result) => result,
                    Err(_) => bail!("the host broke the protocol"),
                },
                Want::Payload { remaining, .. } => {
                    let count = rest.len().min(remaining as usize);
                    if let Some((_, data)) = &mut self.arriving {
                        data.extend_from_slice(&rest[..count]);
                    }
                    (count, self.connection.placed(&rest[..count]))
                }
                Want::Discard { remaining } => {
                    let count = rest.len().min(remaining as usize);
                    (count, self.connection.discarded(count as u32))
                }
                Want::Nothing => bail!("the connection has ended"),
            };
            taken += count;
            if let Some(queue) = event.and_then(|event| self.on_event(event, out).transpose()).transpose()? {
                return Ok((taken, Some(queue)));
            }
        }
        Ok((taken, None))
    }

    fn on_event(&mut self, event: Event, out: &mut Vec<u8>) -> anyhow::Result<Option<CannedQueue>> {
        match event {
            Event::Command { entry, data: CapsuleData::InCapsule { .. }, .. } => {
                self.arriving = Some((entry, Vec::new()));
            }
            Event::Command { slot, entry, .. } => return Ok(self.execute(slot, entry, &[], out)),
            Event::DataComplete { slot, .. } => {
                let (entry, data) = self.arriving.take().context("data without a command")?;
                return Ok(self.execute(slot, entry, &data, out));
            }
            Event::Refused { slot, status, .. } => self.respond(slot, status, 0, out),
            Event::Initialized => {}
            Event::HostTerminated { .. } => bail!("the host ended the connection"),
        }
        Ok(None)
    }

    fn respond(&mut self, slot: Slot, status: Status, result: u64, out: &mut Vec<u8>) {
        self.connection.respond(slot, &Reply { status, result }, out);
    }

    fn execute(
        &mut self,
        slot: Slot,
        entry: SubmissionQueueEntry,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<CannedQueue> {
        if entry.opcode != opcode::admin::FABRICS {
            self.admin(slot, &entry, out);
            return None;
        }
        let result = match entry.fctype() {
            fctype::CONNECT => match ConnectRequest::parse(&entry, data) {
                Ok(request) => {
                    let flow_control = !request.flow_control_disabled;
                    self.connection.establish(request.qid, request.queue_size, flow_control);
                    let cntlid = if request.is_admin() { self.cntlid } else { request.cntlid };
                    self.respond(slot, Status::SUCCESS, accepted(cntlid), out);
                    let queue = CannedQueue::new(flow_control, request.queue_size);
                    return (!request.is_admin()).then_some(queue);
                }
                Err(error) => {
                    self.respond(slot, error.status, error.result(), out);
                    return None;
                }
            },
            fctype::PROPERTY_GET => self.properties.get(&PropertyGet::from(entry)),
            fctype::PROPERTY_SET => self.properties.set(&PropertySet::from(entry)).map(|effect| {
                if let Effect::Shutdown { .. } = effect {
                    self.properties.shutdown_complete();
                }
                0
            }),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        };
        let (status, result) = result.map_or_else(|status| (status, 0), |result| (Status::SUCCESS, result));
        self.respond(slot, status, result, out);
        None
    }

    fn admin(&mut self, slot: Slot, entry: &SubmissionQueueEntry, out: &mut Vec<u8>) {
        let (status, result) = match entry.opcode {
            opcode::admin::IDENTIFY => match self.identify(entry.cdw10.get() as u8, entry.nsid.get()) {
                Some(data) => {
                    let end = self.connection.data_header(slot, &data, &Reply::SUCCESS, out);
                    out.extend_from_slice(&data);
                    return self.connection.data_end(end, out);
                }
                None => (Status::INVALID_FIELD.with_dnr(), 0),
            },
            opcode::admin::SET_FEATURES if feature::feature_id(entry) == feature::fid::NUMBER_OF_QUEUES => {
                let (submission, completion) = feature::queue_counts(entry.cdw11.get());
                (
                    Status::SUCCESS,
                    feature::number_of_queues(submission.min(QUEUES), completion.min(QUEUES)).into(),
                )
            }
            opcode::admin::KEEP_ALIVE => (Status::SUCCESS, 0),
            // Nothing ever happens here that could be told.
            opcode::admin::ASYNC_EVENT_REQUEST => return,
            _ => (Status::INVALID_OPCODE.with_dnr(), 0),
        };
        self.respond(slot, status, result, out);
    }

    fn identify(&self, cns: u8, nsid: u32) -> Option<Vec<u8>> {
        match cns {
            cns::CONTROLLER => {
                let mut data = IdentifyController::default();
                data.set_model("Canned replies");
                data.set_serial("0");
                data.set_firmware("0");
                data.set_subnqn(SUBSYSTEM);
                data.cntlid.set(self.cntlid);
                data.ver.set(Version::V1_4.0);
                data.mdts = (LARGEST / 4096).ilog2() as u8;
                data.nn.set(1);
                data.ioccsz.set(IN_CAPSULE / 16 + 4);
                data.iorcsz.set(1);
                data.maxcmd.set(ENTRIES);
                data.sgls.set((Sgls::SUPPORTED | Sgls::OFFSET | Sgls::TRANSPORT).bits());
                data.sqes = 0x66;
                data.cqes = 0x44;
                Some(data.as_bytes().to_vec())
            }
            cns::ACTIVE_NAMESPACE_LIST => {
                let mut list = if nsid == 0 { 1_u32.to_le_bytes().to_vec() } else { Vec::new() };
                list.resize(gangway_spec::identify::IDENTIFY_LENGTH, 0);
                Some(list)
            }
            cns::NAMESPACE if nsid == 1 => {
                let mut data = IdentifyNamespace::default();
                data.nsze.set(BLOCKS);
                data.ncap.set(BLOCKS);
                data.lbaf[0].lbads = LBADS;
                Some(data.as_bytes().to_vec())
            }
            _ => None,
        }
    }
}
