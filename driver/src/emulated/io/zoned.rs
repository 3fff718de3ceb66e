//! The commands that the Zoned Namespace Command Set adds (ZNS Command Set 1.1, 3.4).

use gangway_spec::zns::{self, ZoneReportHeader, ZoneState, receive, send};
use gangway_spec::{Status, SubmissionQueueEntry, nvm};
use zerocopy::IntoBytes;

use super::execute::{Execution, deallocate};
use super::special::Blocks;
use crate::emulated::namespace::Namespace;
use crate::emulated::protection::Expected;

/// Zone Append: reference tags are remapped to where the data lies (CDW12).
const PIREMAP: u32 = 1 << 25;

impl<'a> Execution<'a> {
    /// The zoned namespace that the command names.
    fn zoned(&self) -> Result<&'a Namespace, Status> {
        let namespace = self.namespace()?;
        namespace.admit()?;
        if namespace.is_zoned() { Ok(namespace) } else { Err(Status::INVALID_OPCODE.with_dnr()) }
    }

    pub(super) fn zone_append(&mut self) -> Result<u64, Status> {
        let namespace = self.zoned()?;
        let (zslba, count) = self.blocks();
        namespace.range(zslba, count)?;
        self.refuse_directives()?;
        let Some(mut zones) = namespace.zones() else { return Err(Status::INVALID_OPCODE.with_dnr()) };
        let slba = zones.append_at(zslba)?;
        let expected = Expected::of(self.entry);
        let remaps = self.entry.cdw12.get() & PIREMAP != 0;
        if let Some(protection) = namespace.format.protection {
            // The reference tags of type 1 follow from the place, and those of type 3 from nothing.
            if protection.kind == 1 && !remaps || protection.kind == 3 && remaps {
                return Err(Status::INVALID_PROTECTION_INFORMATION.with_dnr());
            }
            protection.admit(&expected, zslba)?;
        }
        zones.admit_write(slba, count)?;
        let moved = if remaps { (slba - zslba) as u32 } else { 0 };
        self.write_blocks(Blocks { namespace, slba, count }, &expected, moved)?;
        zones.written(slba, count);
        self.settle()?;
        self.counters.writes += 1;
        self.counters.units_written += (count << namespace.format.shift) / 512;
        Ok(slba)
    }

    pub(super) fn zone_management_send(&mut self) -> Result<(), Status> {
        let namespace = self.zoned()?;
        let slba = nvm::slba(self.entry);
        let action = zns::send_action(self.entry);
        let all = self.entry.cdw13.get() & send::SELECT_ALL != 0;
        let Some(mut zones) = namespace.zones() else { return Err(Status::INVALID_OPCODE.with_dnr()) };
        let size = zones.size();
        if action == send::SET_DESCRIPTOR_EXTENSION {
            let mut extension = vec![0; zones.extension_len()];
            if all || extension.is_empty() {
                return Err(Status::INVALID_FIELD.with_dnr());
            }
            self.receive(&mut extension)?;
            return zones.extend(slba, &extension);
        }
        if all {
            return zones.act_on_all(action, |zslba| deallocate(namespace, zslba, size));
        }
        if slba >= namespace.blocks {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        if zones.act(slba, action)? {
            deallocate(namespace, slba, size)?;
        }
        Ok(())
    }

    pub(super) fn zone_management_receive(&mut self) -> Result<(), Status> {
        let namespace = self.zoned()?;
        let Some(zones) = namespace.zones() else { return Err(Status::INVALID_OPCODE.with_dnr()) };
        let len = zns::receive_length(self.entry);
        if len > self.device.max_transfer() as u64 || len < size_of::<ZoneReportHeader>() as u64 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let extended = match zns::receive_action(self.entry) {
            receive::REPORT => false,
            receive::EXTENDED_REPORT if zones.extension_len() > 0 => true,
            _ => return Err(Status::INVALID_FIELD.with_dnr()),
        };
        let wanted = state_filter(self.entry)?;
        let partial = self.entry.cdw13.get() & receive::PARTIAL != 0;
        let mut report = vec![0; len as usize];
        let mut at = size_of::<ZoneReportHeader>();
        let (mut matching, mut listed) = (0u64, 0u64);
        for (descriptor, extension) in zones.report(nvm::slba(self.entry))? {
            if wanted.is_some_and(|state| state != descriptor.state()) {
                continue;
            }
            matching += 1;
            let extension = if extended { extension } else { &[] };
            let bytes = descriptor.as_bytes();
            if let Some(place) = report.get_mut(at..at + bytes.len() + extension.len()) {
                let (first, second) = place.split_at_mut(bytes.len());
                first.copy_from_slice(bytes);
                second.copy_from_slice(extension);
                at += bytes.len() + extension.len();
                listed += 1;
            }
        }
        let mut header = ZoneReportHeader::default();
        header.nzones.set(if partial { listed } else { matching });
        report[..size_of::<ZoneReportHeader>()].copy_from_slice(header.as_bytes());
        drop(zones);
        self.send(&report)
    }
}

/// The state that zones of the report are in; `None` when any will do.
fn state_filter(entry: &SubmissionQueueEntry) -> Result<Option<ZoneState>, Status> {
    Ok(Some(match zns::receive_filter(entry) {
        receive::ALL => return Ok(None),
        receive::EMPTY => ZoneState::EMPTY,
        receive::IMPLICITLY_OPENED => ZoneState::IMPLICITLY_OPENED,
        receive::EXPLICITLY_OPENED => ZoneState::EXPLICITLY_OPENED,
        receive::CLOSED => ZoneState::CLOSED,
        receive::FULL => ZoneState::FULL,
        receive::READ_ONLY => ZoneState::READ_ONLY,
        receive::OFFLINE => ZoneState::OFFLINE,
        _ => return Err(Status::INVALID_FIELD.with_dnr()),
    }))
}
