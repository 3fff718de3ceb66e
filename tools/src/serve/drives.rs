//! Drives on their way to be served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gangway_bridge::{Drive, DriveInfo};
use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::Options;
use gangway_driver::dma::DmaDomain;
use gangway_driver::emulated::Backing;
use gangway_spec::fabrics::Nqn;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::exports::Known;
use crate::output;

/// How long a drive may take to be ready, whatever it says that it needs (CAP.TO is 127.5 s at most) and however long the
/// kernel waits for it to come out of a reset.
const START_LIMIT: Duration = Duration::from_secs(200);

/// Checks that devices can be served by one process. A drive that moves no data leaves in a buffer what the last command
/// put there, which must not be another drive's data: that of other hosts.
///
/// # Errors
/// When they cannot.
pub(super) fn check_together<'a>(devices: impl IntoIterator<Item = &'a DeviceAddress>) -> anyhow::Result<()> {
    let is_null = |device: &DeviceAddress| matches!(device, DeviceAddress::Emulated(config) if config.backing == Backing::Null);
    let mut kinds = devices.into_iter().map(is_null);
    let first = kinds.next();
    if kinds.any(|kind| Some(kind) != first) {
        bail!(
            "a drive that is `null` moves no data, so its reads could show what other drives hold: serve it in a \
             process of its own"
        );
    }
    Ok(())
}

/// Drives that were started and that nobody took: they are being shut down.
#[derive(Clone, Debug)]
pub(super) struct Leaving(Arc<LeavingDrives>);

#[derive(Debug)]
struct LeavingDrives {
    runtime: Handle,
    left: watch::Sender<usize>,
    /// Those that were not shut down in order.
    failed: Mutex<Vec<String>>,
}

impl Leaving {
    /// None. They will be shut down by tasks of this runtime, in which it has to be called.
    pub(super) fn new() -> Self {
        let (runtime, left) = (Handle::current(), watch::Sender::new(0));
        Self(Arc::new(LeavingDrives { runtime, left, failed: Mutex::default() }))
    }

    fn shut_down(&self, drive: Drive) {
        let all = Arc::clone(&self.0);
        all.left.send_modify(|left| *left += 1);
        self.0.runtime.spawn(async move {
            if !drive.shutdown().await {
                let name = drive.info().name.clone();
                tracing::warn!(drive = %name, "a drive that was not served was not shut down in order");
                all.failed.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            }
            drop(drive);
            all.left.send_modify(|left| *left -= 1);
        });
    }

    /// Waits until there are none left. Those since the last call that were not shut down in order.
    pub(super) async fn gone(&self) -> Vec<String> {
        // It fails only without a sender.
        let _ = self.0.left.subscribe().wait_for(|left| *left == 0).await;
        std::mem::take(&mut *self.0.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A drive that was started. When nobody takes it, it is shut down.
pub(super) struct Unserved {
    info: Arc<DriveInfo>,
    drive: Option<Drive>,
    leaving: Leaving,
}

impl Unserved {
    /// What the drive says of itself.
    pub(super) fn info(&self) -> &Arc<DriveInfo> {
        &self.info
    }

    /// The drive, to be served.
    pub(super) fn take(mut self) -> Option<Drive> {
        self.drive.take()
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        if let Some(drive) = self.drive.take() {
            self.leaving.shut_down(drive);
        }
    }
}

/// Opens a device and starts its controller. `say` is told when it takes long. Whoever drops this leaves it to itself: the
/// drive is shut down again as soon as it has started.
///
/// # Errors
/// It cannot be opened or started, or not in time.
pub(super) async fn start(
    index: usize,
    device: DeviceAddress,
    domain: &DmaDomain,
    options: Options,
    leaving: &Leaving,
    say: impl Fn(&str),
) -> anyhow::Result<Unserved> {
    let name = device.to_string();
    let (domain, leaving) = (domain.clone(), leaving.clone());
    let mut starting = tokio::task::spawn_blocking(move || {
        let open = move || device.open(&domain).map_err(Into::into);
        let drive = Drive::start(index, Box::new(open), options)?;
        anyhow::Ok(Unserved { info: Arc::clone(drive.info()), drive: Some(drive), leaving })
    });
    let begin = Instant::now();
    loop {
        tokio::select! {
            started = &mut starting => {
                let started = started.context("the start was interrupted")?;
                return started.map_err(|error| cannot_export(&name, error));
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                let waited = begin.elapsed();
                if waited > START_LIMIT {
                    let error = anyhow::anyhow!("it does not get ready within {} s", START_LIMIT.as_secs());
                    return Err(cannot_export(&name, error));
                }
                say(&format!("{name}: waiting for the controller to get ready ({} s)", waited.as_secs()));
            }
        }
    }
}

/// Says which drive it is about, unless the error says so itself.
pub(super) fn cannot_export(name: &str, error: anyhow::Error) -> anyhow::Error {
    let bare = name.strip_prefix("pci:").unwrap_or(name);
    if error.to_string().contains(bare) {
        error.context("cannot export a drive")
    } else {
        error.context(format!("cannot export {name}"))
    }
}

/// How a drive is named from now on.
pub(super) fn known(info: &DriveInfo) -> Known {
    Known { name: info.name.clone(), serial: info.identify.serial().into_owned() }
}

/// A name that stays the same over restarts and machines: made of the drive's serial number.
///
/// # Errors
/// It has none.
pub(super) fn default_nqn(info: &DriveInfo) -> anyhow::Result<Nqn> {
    let serial = info.identify.serial();
    let clean: String =
        serial.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    if clean.is_empty() {
        bail!("{}: the drive has no serial number to make an NQN of; give one with --nqn", info.name);
    }
    format!("nqn.2026-11.io.gangway:{clean}").parse().context("cannot make an NQN of the serial number")
}

/// A drive in a few words.
pub(super) fn describe(info: &DriveInfo) -> String {
    let bytes: u64 = info
        .namespaces
        .iter()
        .filter_map(|namespace| {
            namespace.identify.nsze.get().checked_mul(namespace.identify.block_size()?.into())
        })
        .sum();
    let count = info.namespaces.len();
    let plural = if count == 1 { "" } else { "s" };
    let model = output::printable(&info.identify.model());
    format!("{}, {model}, {} in {count} namespace{plural}", info.name, output::size(bytes))
}
