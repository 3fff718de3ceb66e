//! Format NVM (NVMe Base 1.4, 5.23).

use std::sync::Arc;

use gangway_spec::Status;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::log::SelfTestResult;

use super::operation::Clock;
use super::{AdminCommand, invalid_field};
use crate::emulated::device::Outcome;
use crate::emulated::namespace::Namespace;
use crate::emulated::namespace::format::Format;

/// FNA: cryptographic erase is there; formats and erases concern the namespace that is named alone.
pub(super) const ATTRIBUTES: u8 = 1 << 2;

/// Secure Erase Settings: a cryptographic erase. The ones below are none, and of user data.
const CRYPTOGRAPHIC_ERASE: u32 = 2;

/// A format that goes on.
pub(super) struct Formatting {
    /// The command that is completed when it is done.
    pub(super) cid: u16,
    pub(super) namespaces: Vec<Arc<Namespace>>,
    pub(super) clock: Clock,
}

impl Formatting {
    /// Lets I/O commands in again.
    pub(super) fn finish(&self) {
        self.namespaces.iter().for_each(|namespace| namespace.refuse(None));
    }

    /// FPI: percent that remain to be done, when the namespace is among those that are formatted.
    pub(super) fn remaining(&self, nsid: u32) -> u8 {
        let concerns = self.namespaces.iter().any(|namespace| namespace.nsid == nsid);
        // Not 0 before it is done: that would say that it is.
        if concerns { (100 - self.clock.percent()).max(1) } else { 0 }
    }
}

impl AdminCommand<'_> {
    pub(super) fn format_nvm(&mut self) -> Result<Outcome, Status> {
        let cdw10 = self.entry.cdw10.get();
        let nsid = self.entry.nsid.get();
        let device = self.device;
        if self.admin.formatting.is_some() {
            return Err(Status::FORMAT_IN_PROGRESS);
        }
        // A namespace that is not attached can be formatted as well.
        let old: Vec<Arc<Namespace>> = if nsid == NSID_BROADCAST {
            device.namespaces.list(0).into_iter().map(|(namespace, _)| namespace).collect()
        } else {
            let (namespace, _) =
                device.namespaces.allocated(nsid)?.ok_or(Status::INVALID_FIELD.with_dnr())?;
            vec![namespace]
        };
        if cdw10 >> 9 & 0x7 > CRYPTOGRAPHIC_ERASE {
            return invalid_field();
        }
        let dps = (cdw10 >> 5 & 0xf) as u8;
        let format = Format::new((cdw10 & 0xf) as u8, cdw10 & 1 << 4 != 0, dps, device.store.keeps_data())?;
        self.admin.self_tests.end(SelfTestResult::ABORTED_BY_FORMAT, device.power_on_hours());
        for namespace in &old {
            namespace.refuse(Some(Status::FORMAT_IN_PROGRESS));
        }
        // From here on no command is at work on the old ones.
        device.publish_namespaces();
        let mut namespaces = Vec::with_capacity(old.len());
        for namespace in &old {
            let new = device.namespaces.reformat(namespace, format, &device.store)?;
            new.refuse(Some(Status::FORMAT_IN_PROGRESS));
            self.admin.changed(namespace.nsid);
            namespaces.push(new);
        }
        device.publish_namespaces();
        let formatting = Formatting {
            cid: self.entry.cid.get(),
            namespaces,
            clock: Clock::start(device.config.operation),
        };
        if formatting.clock.is_done() {
            formatting.finish();
            return Ok(Status::SUCCESS.into());
        }
        self.admin.formatting = Some(formatting);
        Ok(Outcome::Kept)
    }
}
