//! What is added to a running server, and taken from it.
//!
//! Drives are started beside each other and beside everything else; whoever asked for it may go away meanwhile, and then
//! they are shut down again. What follows, the change of what hosts see, is done by a task of its own, one after the other:
//! it is done as a whole, or not at all, whoever waits for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use gangway_bridge::{ExportConfig, ExportUse, Mapping, TargetHandle};
use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::Options;
use gangway_driver::dma::DmaDomain;
use gangway_driver::queue::DataPointers;
use gangway_spec::fabrics::Nqn;
use tokio::sync::{Mutex, MutexGuard, watch};

use super::changes::{Added, AddedExport, InUse, Removed, RemovedDrive};
use super::drives::{Leaving, Unserved, cannot_export, check_together, start};
use super::exports::{Named, NamespaceArg, is_named, list};
use super::terms::Terms;
use super::wanted::{Line, Member, Numbers, Wanted, named};

/// What all drives of a server have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriveSettings {
    /// Queue pairs: one for each reactor.
    pub(crate) reactors: u16,
    /// Whether reactors sleep. Those that never do need not be woken.
    pub(crate) interrupts: bool,
}

impl DriveSettings {
    /// `prp`: with PRPs alone.
    pub(super) fn options(&self, prp: bool) -> Options {
        Options {
            io_queues_wanted: self.reactors,
            interrupts: self.interrupts,
            data_pointers: if prp { DataPointers::Prp } else { DataPointers::Auto },
            ..Options::default()
        }
    }
}

/// A running server, for those who change it.
pub(crate) struct Site {
    target: TargetHandle,
    domain: DmaDomain,
    settings: DriveSettings,
    /// What holds for what is added, where nothing else is said.
    terms: Terms,
    addresses: Vec<SocketAddr>,
    numbers: Numbers,
    leaving: Leaving,
    /// The drive that was served first. What drives left in the server's memory outlasts them.
    first: Option<DeviceAddress>,
    /// Held while something changes.
    roster: Mutex<Roster>,
}

/// The drives that are served.
struct Roster {
    members: Vec<Member>,
    /// Nothing changes any more.
    ended: bool,
}

/// What hosts are to see besides what they see already.
enum Change {
    Exports(Vec<ExportConfig>),
    Namespaces(Nqn, Vec<Mapping>),
}

/// What is being done, for those who wait for it.
pub(crate) struct Doing(watch::Sender<String>);

impl Doing {
    /// It, and what tells of it.
    pub(crate) fn new() -> (Self, watch::Receiver<String>) {
        let (sender, receiver) = watch::channel("waiting for the server".to_owned());
        (Self(sender), receiver)
    }

    fn now(&self, text: impl Into<String>) {
        self.0.send_replace(text.into());
    }
}

type Started = Vec<(Member, Unserved)>;

impl Site {
    pub(super) fn new(
        target: TargetHandle,
        domain: DmaDomain,
        settings: DriveSettings,
        terms: Terms,
        addresses: Vec<SocketAddr>,
        (numbers, members, leaving): (Numbers, Vec<Member>, Leaving),
    ) -> Self {
        let first = members.first().map(|member| member.device.clone());
        let roster = Mutex::new(Roster { members, ended: false });
        Self { target, domain, settings, terms, addresses, numbers, leaving, first, roster }
    }

    /// The target.
    pub(crate) fn target(&self) -> &TargetHandle {
        &self.target
    }

    /// Lets nothing change from now on; what is being changed has been when this ends, and drives that were started for
    /// it and not served are shut down. Those of them where that was not done in order.
    pub(super) async fn end(&self) -> Vec<String> {
        self.roster.lock().await.ended = true;
        self.leaving.gone().await
    }

    /// What came of an addition, when nothing is left of one that failed.
    async fn settled(&self, added: anyhow::Result<Added>) -> anyhow::Result<Added> {
        if added.is_err() {
            self.leaving.gone().await;
        }
        added
    }

    async fn roster(&self, doing: &Doing) -> anyhow::Result<MutexGuard<'_, Roster>> {
        doing.now("waiting for another change to end");
        let roster = self.roster.lock().await;
        if roster.ended {
            bail!("the server is ending");
        }
        Ok(roster)
    }

    /// Starts drives and exports them, or namespaces of drives that are served. Nothing has changed when it fails, or when
    /// it is dropped while drives are started.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) async fn add(self: &Arc<Self>, wanted: Wanted, doing: Doing) -> anyhow::Result<Added> {
        self.settled(self.add_exports(wanted, doing).await).await
    }

    async fn add_exports(self: &Arc<Self>, wanted: Wanted, doing: Doing) -> anyhow::Result<Added> {
        let wanted = Wanted { terms: wanted.terms.or(&self.terms), ..wanted };
        if wanted.devices.is_empty() && wanted.terms.is_without_exports() {
            bail!("there is nothing to add: name a device, or an export of drives that are served");
        }
        let access = {
            let roster = self.roster(&doing).await?;
            self.check_free(wanted.terms.names_given())?;
            check_together(wanted.devices.iter().chain(&self.first))?;
            wanted.check(&roster.members, &self.addresses)?
        };
        let started = self.start(&wanted, &doing).await?;
        self.finish(doing, move |site, doing| async move {
            let mut roster = site.roster(&doing).await?;
            // Others may have changed something while the drives were started.
            wanted.check_devices(&roster.members)?;
            let new: Vec<Member> = started.iter().map(|(member, _)| member.clone()).collect();
            let exports = wanted.exports(&new, &roster.members, &access)?;
            site.check_free(exports.iter().map(|export| &export.nqn))?;
            let members: Vec<&Member> = roster.members.iter().chain(&new).collect();
            let lines: Vec<Line> = exports.iter().map(|export| Line::of(export, &members)).collect();
            doing.now("showing it to hosts");
            site.put_in_place(&mut roster, started, Change::Exports(exports)).await?;
            let exports = lines.into_iter().map(|Line { nqn, what }| {
                tracing::info!(target: "audit", subsystem = %nqn, "an export was added");
                AddedExport { nqn: nqn.to_string(), description: what }
            });
            Ok(Added { exports: exports.collect(), ..site.added(&new) })
        })
        .await
    }

    /// Starts drives, and adds namespaces of theirs, or of drives that are served, to an export that lists namespaces.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) async fn add_to(
        self: &Arc<Self>,
        export: Nqn,
        namespaces: Vec<NamespaceArg>,
        wanted: Wanted,
        doing: Doing,
    ) -> anyhow::Result<Added> {
        self.settled(self.add_namespaces(export, namespaces, wanted, doing).await).await
    }

    async fn add_namespaces(
        self: &Arc<Self>,
        export: Nqn,
        namespaces: Vec<NamespaceArg>,
        wanted: Wanted,
        doing: Doing,
    ) -> anyhow::Result<Added> {
        if namespaces.is_empty() {
            bail!("no namespace is named that is to be added to {export}");
        }
        wanted.terms.check_for_namespaces(wanted.devices.len())?;
        let wanted = Wanted { terms: wanted.terms.or(&self.terms), ..wanted };
        {
            let roster = self.roster(&doing).await?;
            check_together(wanted.devices.iter().chain(&self.first))?;
            wanted.check_devices(&roster.members)?;
            self.users(&export)?;
            let drives = wanted.named_before(&roster.members);
            let used = namespaces.iter().map(|one| one.drive(&drives));
            wanted.check_used(&used.collect::<Result<Vec<_>, _>>()?, "--ns")?;
        }
        let started = self.start(&wanted, &doing).await?;
        self.finish(doing, move |site, doing| async move {
            let mut roster = site.roster(&doing).await?;
            wanted.check_devices(&roster.members)?;
            let new: Vec<Member> = started.iter().map(|(member, _)| member.clone()).collect();
            let drives = named(&new, &roster.members);
            let mappings = namespaces.iter().map(|one| one.mapping(&drives));
            let mappings = mappings.collect::<Result<Vec<_>, _>>()?;
            if let Some(idle) = new.iter().find(|new| mappings.iter().all(|one| one.drive != new.index())) {
                bail!("{}: no --ns names it", idle.device);
            }
            let nsids: Vec<u32> = mappings.iter().map(|one| one.nsid).collect();
            doing.now("showing it to hosts");
            site.put_in_place(&mut roster, started, Change::Namespaces(export.clone(), mappings)).await?;
            tracing::info!(target: "audit", subsystem = %export, ?nsids, "namespaces were added to an export");
            Ok(Added { namespaces: nsids, ..site.added(&new) })
        })
        .await
    }

    /// Takes exports back, by name, and drives with all exports that show them. Drives that no export shows any more are
    /// shut down. `disconnect`: also where hosts are connected.
    ///
    /// # Errors
    /// [`InUse`], and what else is in the way; then nothing has changed.
    pub(crate) async fn remove(
        self: &Arc<Self>,
        names: Vec<String>,
        disconnect: bool,
        doing: Doing,
    ) -> anyhow::Result<Removed> {
        if names.is_empty() {
            bail!("nothing is named that is to be removed");
        }
        self.finish(doing, move |site, doing| async move {
            let mut roster = site.roster(&doing).await?;
            let (exports, drives) = site.to_remove(&roster, &names)?;
            if !disconnect {
                check_unused(&exports)?;
            }
            for export in &exports {
                doing.now(format!("{}: its hosts are disconnected", export.nqn));
                site.target.remove_export(&export.nqn).await?;
                tracing::info!(target: "audit", subsystem = %export.nqn, "an export was removed");
            }
            let exports = exports.into_iter().map(|export| export.nqn.to_string()).collect();
            let drives = site.shut_down_idle(&mut roster, &drives, &doing).await?;
            Ok(Removed { exports, drives, ..Removed::default() })
        })
        .await
    }

    /// Takes namespaces out of an export that lists them. Drives that no export shows any more are shut down.
    /// `disconnect`: also where hosts are connected.
    ///
    /// # Errors
    /// [`InUse`], and what else is in the way; then nothing has changed.
    pub(crate) async fn remove_from(
        self: &Arc<Self>,
        export: Nqn,
        namespaces: Vec<u32>,
        disconnect: bool,
        doing: Doing,
    ) -> anyhow::Result<Removed> {
        if namespaces.is_empty() {
            bail!("no namespace is named that is to be taken out of {export}");
        }
        self.finish(doing, move |site, doing| async move {
            let mut roster = site.roster(&doing).await?;
            let users = site.users(&export)?;
            if !disconnect {
                check_unused(std::slice::from_ref(&users))?;
            }
            doing.now(format!("{export}: waiting for commands of its hosts"));
            site.target.remove_namespaces(&export, &namespaces).await?;
            tracing::info!(target: "audit", subsystem = %export, nsids = ?namespaces, "namespaces were taken out of an export");
            let drives = users.drives.into_iter().collect();
            let drives = site.shut_down_idle(&mut roster, &drives, &doing).await?;
            Ok(Removed { namespaces, drives, ..Removed::default() })
        })
        .await
    }

    /// Does something to its end, whether or not somebody waits for it.
    async fn finish<T: Send + 'static, W>(
        self: &Arc<Self>,
        doing: Doing,
        work: impl FnOnce(Arc<Self>, Doing) -> W,
    ) -> anyhow::Result<T>
    where
        W: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        tokio::spawn(work(Arc::clone(self), doing)).await.context("the change was interrupted")?
    }

    /// Starts drives.
    async fn start(&self, wanted: &Wanted, doing: &Doing) -> anyhow::Result<Started> {
        let mut started = Vec::new();
        for device in &wanted.devices {
            doing.now(format!("{device}: being started"));
            let number = self.numbers.take();
            let options = self.settings.options(wanted.terms.prp);
            let (domain, leaving) = (&self.domain, &self.leaving);
            let unserved = start(number.index(), device.clone(), domain, options, leaving, |_| ()).await?;
            let info = Arc::clone(unserved.info());
            started.push((Member { number, device: device.clone(), info }, unserved));
        }
        Ok(started)
    }

    /// Serves drives and shows something to hosts, or neither.
    async fn put_in_place(
        &self,
        roster: &mut Roster,
        started: Started,
        change: Change,
    ) -> anyhow::Result<()> {
        let (mut drives, mut exports) = (Vec::new(), Vec::new());
        let done = async {
            for (member, unserved) in started {
                if let Some(drive) = unserved.take() {
                    let name = member.device.to_string();
                    let added = self.target.add_drive(drive).await;
                    added.map_err(|error| cannot_export(&name, error.into()))?;
                }
                drives.push(member);
            }
            match change {
                Change::Exports(all) => {
                    for export in all {
                        let nqn = export.nqn.clone();
                        self.target.add_export(export).await?;
                        exports.push(nqn);
                    }
                }
                Change::Namespaces(export, mappings) => {
                    self.target.add_namespaces(&export, &mappings).await?
                }
            }
            anyhow::Ok(())
        };
        if let Err(error) = done.await {
            for nqn in exports {
                // It has been there for no time at all.
                let _ = self.target.remove_export(&nqn).await;
            }
            for member in drives {
                let _ = self.target.remove_drive(member.index()).await;
            }
            return Err(error);
        }
        roster.members.extend(drives);
        Ok(())
    }

    fn added(&self, new: &[Member]) -> Added {
        let drives = new.iter().map(|member| member.info.name.clone()).collect();
        Added { drives, addresses: self.addresses.clone(), ..Added::default() }
    }

    /// Checks that no export has one of these names.
    fn check_free<'a>(&self, names: impl IntoIterator<Item = &'a Nqn>) -> anyhow::Result<()> {
        let all = self.target.exports();
        for name in names {
            if all.iter().any(|export| export.nqn == *name) {
                bail!("there is an export {name} already; choose another name");
            }
        }
        Ok(())
    }

    /// What an export needs, and who uses it.
    fn users(&self, nqn: &Nqn) -> anyhow::Result<ExportUse> {
        let found = self.target.exports().into_iter().find(|export| export.nqn == *nqn);
        found
            .with_context(|| format!("there is no export {nqn}; `gangway status` shows those that there are"))
    }

    /// The exports to take back for these names, and the drives that may have none left then.
    fn to_remove(
        &self,
        roster: &Roster,
        names: &[String],
    ) -> anyhow::Result<(Vec<ExportUse>, BTreeSet<usize>)> {
        let all = self.target.exports();
        let drives: Vec<Named> = roster.members.iter().map(|member| member.named(None)).collect();
        let (mut exports, mut idle) = (BTreeSet::new(), BTreeSet::new());
        let is_export = |name: &String| all.iter().position(|export| export.nqn.as_str() == name);
        exports.extend(names.iter().filter_map(is_export));
        for name in names.iter().filter(|name| is_export(name).is_none()) {
            let found: Vec<&Named> = drives.iter().filter(|drive| is_named(drive, name)).collect();
            let [drive] = found[..] else {
                let several =
                    if found.is_empty() { "neither an export nor a drive" } else { "several drives" };
                let known: Vec<&str> = all.iter().map(|export| export.nqn.as_str()).collect();
                bail!(
                    "{several} of the server can be meant by \"{name}\"; exports: {}; drives: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") },
                    list(&drives)
                );
            };
            idle.insert(drive.index);
            for (at, export) in all.iter().enumerate().filter(|(_, one)| one.drives.contains(&drive.index)) {
                // Another drive's namespaces go with it only if that is said.
                if export.drives.len() > 1 && !exports.contains(&at) {
                    bail!(
                        "{} shows namespaces of other drives, too: take those of {name} out (gangway remove --from {} --ns NSID), \
                         or name the export as well",
                        export.nqn,
                        export.nqn
                    );
                }
                exports.insert(at);
            }
        }
        let exports: Vec<ExportUse> = exports.into_iter().map(|at| all[at].clone()).collect();
        idle.extend(exports.iter().flat_map(|export| &export.drives));
        Ok((exports, idle))
    }

    /// Shuts down those of `drives` that no export shows.
    async fn shut_down_idle(
        &self,
        roster: &mut Roster,
        drives: &BTreeSet<usize>,
        doing: &Doing,
    ) -> anyhow::Result<Vec<RemovedDrive>> {
        let used: BTreeSet<usize> =
            self.target.exports().into_iter().flat_map(|export| export.drives).collect();
        let (gone, kept): (Vec<Member>, Vec<Member>) = std::mem::take(&mut roster.members)
            .into_iter()
            .partition(|member| drives.contains(&member.index()) && !used.contains(&member.index()));
        roster.members = kept;
        let (mut removed, mut kept) = (Vec::new(), None);
        for member in gone {
            let name = member.info.name.clone();
            doing.now(format!("{name}: being shut down"));
            match self.target.remove_drive(member.index()).await {
                Ok(in_order) => {
                    tracing::info!(target: "audit", drive = %name, in_order, "a drive was removed");
                    removed.push(RemovedDrive { name, in_order });
                }
                Err(error) => {
                    roster.members.push(member);
                    kept = Some(anyhow::Error::from(error).context(format!("{name} is still served")));
                }
            }
        }
        kept.map_or(Ok(removed), Err)
    }
}

/// Checks that no host is connected to one of these exports.
fn check_unused(exports: &[ExportUse]) -> anyhow::Result<()> {
    let used = exports.iter().filter(|export| !export.hosts.is_empty());
    let each = used.map(|export| {
        let hosts: BTreeSet<&str> = export.hosts.iter().map(Nqn::as_str).collect();
        format!("{} is in use by {}", export.nqn, hosts.into_iter().collect::<Vec<_>>().join(" and "))
    });
    let used: Vec<String> = each.collect();
    if used.is_empty() { Ok(()) } else { Err(InUse(used.join("; ")).into()) }
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
