//! What an operator says of drives that are exported: under which names, to whom, and what hosts may do. `serve` has it for
//! those it starts with, `add` for those that come later.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::bail;
use clap::Args;
use gangway_bridge::policy::table::Class;
use gangway_bridge::policy::{HostPolicies, Item, ItemError, Policy};
use gangway_bridge::{Access, Limit, Limits, Subject};
use gangway_spec::fabrics::Nqn;
use serde::{Deserialize, Serialize};

use super::exports::ExportArg;
use crate::texts;

/// On what terms drives are exported.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct Terms {
    /// NQN to export a drive as; once for each drive, in the same order [default: from the drive's serial number]
    #[arg(long, value_name = "NQN", conflicts_with = "export")]
    #[serde(rename = "NQN", with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(super) nqn: Vec<Nqn>,
    /// What hosts see under one name, in place of each drive under its own: `nqn=NQN,ns=NSID=DRIVE/NSID,...` for namespaces,
    /// each with the NSID that hosts use, or `nqn=NQN,drive=DRIVE` for a whole drive; may be given several times. DRIVE is
    /// the place of a drive on this command line, from 1, a PCI address or a serial number. With `host=NQN`, which may be given
    /// several times, these hosts may connect to it instead of those that --allow-host names; with `read-only`, what changes
    /// data is refused; `derive-ids` is --derive-ids for it alone. `allow=WHAT`, which may be given several times, is what its
    /// hosts may do instead of what --allow says, and `refuse=WHAT` what they may not, besides what --refuse says
    #[arg(long, value_name = "EXPORT")]
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(super) export: Vec<ExportArg>,
    /// Let the host with this NQN connect, and no other that is not named
    #[arg(long, value_name = "NQN", conflicts_with = "allow_any_host")]
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(super) allow_host: Vec<Nqn>,
    /// Let any host connect that reaches the address
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    pub(super) allow_any_host: bool,
    /// Refuse every command that changes data
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    pub(super) read_only: bool,
    /// Give namespaces identifiers (a UUID) of the export's own instead of the drive's, so that a host can have the drive itself,
    /// or the same namespace by another export, as well
    #[arg(long)]
    #[serde(rename = "DeriveIDs", skip_serializing_if = "is_false")]
    pub(super) derive_ids: bool,
    /// What hosts may do besides I/O and looking at the drive: classes (`tune`: features, self-test, telemetry; `firmware`;
    /// `vendor`: vendor commands; `manage`: formats, namespaces, sanitize, security, write protection), or single ones, such as `admin:14h`,
    /// `feature:06h`, `log:07h`
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(super) allow: Vec<Item>,
    /// What of that hosts may not do
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(super) refuse: Vec<Item>,
    /// What one host may do instead of what --allow says, such as `nqn.2014-08.org.example:admin=tune,firmware`
    #[arg(long, value_name = "NQN=WHAT")]
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(super) allow_for: Vec<HostItems>,
    /// What a host or a namespace may have in a second: `host=iops=50k,bandwidth=500MiB` for each host, `host:NQN=...` for one,
    /// `namespace=...` or `namespace:NSID=...` for all hosts together; with `,burst=1s` as much as that is saved up
    #[arg(long, value_name = "WHOSE=LIMIT")]
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub(super) limit: Vec<LimitRule>,
    /// Name memory to drives by PRPs alone, for a drive that offers SGLs and fails with them
    #[arg(long)]
    #[serde(rename = "PRP", skip_serializing_if = "is_false")]
    pub(super) prp: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Terms {
    /// Checks that nothing is said but what is about the `drives` that come with namespaces for an export.
    ///
    /// # Errors
    /// What is said besides.
    pub(crate) fn check_for_namespaces(&self, drives: usize) -> anyhow::Result<()> {
        if *self != (Self { prp: self.prp, ..Self::default() }) {
            bail!("--to: namespaces are shown on the terms of the export that they are added to; say none");
        }
        if self.prp && drives == 0 {
            bail!("--prp is about drives that are started, and none is named");
        }
        Ok(())
    }

    /// Whether no export is named.
    pub(super) fn is_without_exports(&self) -> bool {
        self.export.is_empty()
    }

    /// What is not said here is as `usual` has it: who may connect, what hosts may do, and limits, each of them as a whole.
    /// What is read-only there cannot be written here.
    pub(super) fn or(&self, usual: &Self) -> Self {
        let mut all = self.clone();
        if self.allow_host.is_empty() && !self.allow_any_host {
            (all.allow_host, all.allow_any_host) = (usual.allow_host.clone(), usual.allow_any_host);
        }
        if self.allow.is_empty() && self.refuse.is_empty() && self.allow_for.is_empty() {
            all.allow = usual.allow.clone();
            all.refuse = usual.refuse.clone();
            // Of hosts that may not connect to this nothing is said.
            let may_connect = |items: &&HostItems| all.allow_host.is_empty() || all.names(&items.host);
            all.allow_for = usual.allow_for.iter().filter(may_connect).cloned().collect();
        }
        if self.limit.is_empty() {
            all.limit = usual.limit.clone();
        }
        all.read_only |= usual.read_only;
        all.derive_ids |= usual.derive_ids;
        all.prp |= usual.prp;
        all
    }

    /// Checks the names that are given for `drives` drives: those that no export can have.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn check_names(&self, drives: usize) -> anyhow::Result<()> {
        if !self.nqn.is_empty() && !self.export.is_empty() {
            bail!("--nqn names drives that have an export each; with --export, names are given there");
        }
        if self.nqn.len() > drives {
            bail!("more --nqn than drives: each drive is exported once");
        }
        for (index, nqn) in self.nqn.iter().enumerate() {
            if nqn.is_discovery() {
                bail!(
                    "--nqn {nqn}: that is the name of the discovery subsystem, which every target has; choose another"
                );
            }
            if self.nqn[..index].contains(nqn) {
                bail!("--nqn {nqn} is given twice: each drive needs a name of its own");
            }
        }
        for (index, export) in self.export.iter().enumerate() {
            if self.export[..index].iter().any(|other| other.nqn == export.nqn) {
                bail!("--export nqn={} is given twice: each export needs a name of its own", export.nqn);
            }
        }
        Ok(())
    }

    /// The names that are given.
    pub(super) fn names_given(&self) -> impl Iterator<Item = &Nqn> {
        self.nqn.iter().chain(self.export.iter().map(|export| &export.nqn))
    }

    /// Checks who may do what through a server that listens at these addresses. Who may connect.
    ///
    /// # Errors
    /// What is missing, or contradicts itself.
    pub(super) fn check(&self, addresses: &[SocketAddr]) -> anyhow::Result<Access> {
        if self.export.is_empty() {
            self.policies(None)?;
        }
        self.export.iter().try_for_each(|export| self.policies(Some(export)).map(drop))?;
        self.access(addresses)
    }

    /// Who may connect. Beyond loopback nobody may unless the operator says who.
    pub(super) fn access(&self, addresses: &[SocketAddr]) -> anyhow::Result<Access> {
        if self.allow_any_host && !self.allow_host.is_empty() {
            bail!("--allow-host contradicts --allow-any-host: say one of them");
        }
        if !self.allow_host.is_empty() {
            let hosts: BTreeSet<String> = self.allow_host.iter().map(|nqn| nqn.to_string()).collect();
            return Ok(Access::Hosts(hosts));
        }
        if !self.export.is_empty() && self.export.iter().all(|export| !export.hosts.is_empty()) {
            // Nobody that no export names.
            return Ok(Access::Hosts(BTreeSet::new()));
        }
        let exposed = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
        match exposed {
            Some(address) if !self.allow_any_host => bail!(
                "{address} can be reached from other machines: name the hosts that may connect with --allow-host NQN, or in \
                 each --export with host=NQN (`cat /etc/nvme/hostnqn` there), or say --allow-any-host"
            ),
            _ => Ok(Access::AnyHost),
        }
    }

    /// Whether a host is named as one that may connect.
    fn names(&self, host: &Nqn) -> bool {
        self.allow_host.contains(host)
            || self.export.iter().any(|export| export.hosts.contains(host.as_str()))
    }

    /// What hosts may do besides I/O, through an export that is named or through any other.
    ///
    /// # Errors
    /// What contradicts itself.
    pub(super) fn policies(&self, export: Option<&ExportArg>) -> anyhow::Result<HostPolicies> {
        let own = |items: fn(&ExportArg) -> &[Item]| export.map_or(&[][..], items);
        let refuse = own(|export| &export.refuse);
        let policy = |allow: &[Item]| {
            let allow = allow.iter().copied().chain([Item::Class(Class::Inspect)]);
            Policy::new(allow, self.refuse.iter().chain(refuse).copied())
        };
        let allow = own(|export| &export.allow);
        let mut policies = HostPolicies::all(policy(if allow.is_empty() { &self.allow } else { allow }));
        for HostItems { host, items } in &self.allow_for {
            if !self.allow_host.is_empty() && !self.names(host) {
                bail!("--allow-for {host}: this host may not connect, as no --allow-host names it");
            }
            policies.name(host, policy(items));
        }
        let read_only = self.read_only || export.is_some_and(|export| export.read_only);
        if read_only && policies.change_data() {
            bail!(
                "read-only contradicts the classes manage and vendor: their commands may change data \
                   (`--allow inspect`, or allow=inspect in an --export, opens neither; \
                   what --allow-for opens, refuse=manage,refuse=vendor in the --export takes back)"
            );
        }
        Ok(policies)
    }

    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for LimitRule { subject, limit } in &self.limit {
            limits.set(subject.clone(), *limit);
        }
        limits
    }
}

/// `NQN=WHAT,WHAT`: what one host may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostItems {
    host: Nqn,
    items: Vec<Item>,
}

impl FromStr for HostItems {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Names have no `=`, or what follows the last one is no list.
        let (host, items) =
            text.rsplit_once('=').ok_or("write NQN=WHAT, as in nqn.2014-08.org.example:admin=tune")?;
        let host = host.parse::<Nqn>().map_err(|error| error.to_string())?;
        let items = items.split(',').filter(|item| !item.is_empty()).map(str::parse);
        let items = items.collect::<Result<_, _>>().map_err(|error: ItemError| error.to_string())?;
        Ok(Self { host, items })
    }
}

impl fmt::Display for HostItems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self.items.iter().map(ToString::to_string).collect();
        write!(f, "{}={}", self.host, items.join(","))
    }
}

/// `WHOSE=LIMIT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitRule {
    subject: Subject,
    limit: Limit,
}

impl FromStr for LimitRule {
    type Err = gangway_bridge::LimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Limits::parse_rule(text).map(|(subject, limit)| Self { subject, limit })
    }
}

impl fmt::Display for LimitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.subject, self.limit)
    }
}
