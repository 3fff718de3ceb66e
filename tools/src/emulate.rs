//! `gangway emulate`: an emulated drive for drivers of other programs, over vfio-user.

use std::path::PathBuf;
use std::thread;

use anyhow::{Context, bail};
use clap::Args;
use gangway_driver::emulated::EmulatedConfig;
use gangway_driver::vfio_user::server::{ServeError, Server};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Exit;

const EXAMPLES: &str = "\
Examples:
  gangway emulate --socket /run/nvme.sock
      A drive of 1 GiB in memory; `gangway perf vfio-user:/run/nvme.sock` drives it.
  gangway emulate --socket /run/nvme/cntrl size=8GiB,block=512,file=disk.img
      For SPDK's tools, which look for the name `cntrl` in the folder that they are given:
      spdk_nvme_identify -r 'trtype:VFIOUSER traddr:/run/nvme subnqn:ANY'

One driver at a time has the drive; it is reset when that one leaves. Ctrl-C ends it in order.
The options are those of `emulated:OPTIONS`; README.md lists them.";

/// Serves an emulated drive on a vfio-user socket, so that other programs' drivers can be tried on it.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Emulate {
    /// Path of the socket to make. A socket that nobody listens on any more is replaced.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Permissions of the socket, in octal: who may write to it may drive the drive
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    socket_mode: u32,
    /// What the drive is like, such as `size=8GiB,block=512,namespaces=2` [default: 1 GiB in memory]
    #[arg(default_value = "", hide_default_value = true, value_parser = options)]
    options: EmulatedConfig,
}

impl Emulate {
    /// Serves until a signal comes.
    ///
    /// # Errors
    /// The drive or the socket cannot be made, or no client can be waited for any more.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let server = Server::bind(&self.socket, self.socket_mode, self.options.clone())?;
        let stopper = server.stopper();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let (ended, end) = tokio::sync::oneshot::channel::<Result<(), ServeError>>();
            let thread = thread::Builder::new().name("emulate".to_owned()).spawn(move || {
                // The receiver waits for it, whatever else happens.
                let _ = ended.send(server.run());
            })?;
            eprintln!("an emulated NVMe drive is at vfio-user:{} (Ctrl-C ends it)", self.socket.display());
            let mut end = end;
            tokio::select! {
                result = &mut end => {
                    result.context("the device has failed")??;
                    bail!("the device has ended by itself");
                }
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stopper.stop();
            end.await.context("the device has failed")??;
            if thread.join().is_err() {
                bail!("the device has failed");
            }
            Ok(Exit::Success)
        })
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permissions are three octal digits, such as 600 or 660".to_owned()),
    }
}

fn options(text: &str) -> anyhow::Result<EmulatedConfig> {
    let text = text.strip_prefix("emulated").map_or(text, |rest| rest.strip_prefix(':').unwrap_or(rest));
    Ok(text.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_with_and_without_their_kind() {
        let plain = options("size=2GiB,block=512").unwrap();
        assert_eq!(options("emulated:size=2GiB,block=512").unwrap(), plain);
        assert_eq!(options("").unwrap(), EmulatedConfig::default());
        assert_eq!(options("emulated").unwrap(), EmulatedConfig::default());
        assert!(options("colour=red").is_err());
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(mode("660"), Ok(0o660));
        for wrong in ["", "rw", "888", "4755", "-1"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}
