//! `gangway add`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use gangway_driver::address::DeviceAddress;
use gangway_driver::emulated::Backing;
use gangway_spec::fabrics::Nqn;

use super::Request;
use super::client::Server;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::serve::{Added, NamespaceArg, Terms, announce};

const EXAMPLES: &str = "\
Examples:
  gangway add pci:0000:02:00.0
      The running server serves this drive as well (bound with `gangway bind 0000:02:00.0`), under a name of its own.
  gangway add pci:0000:02:00.0 --allow-host nqn.2014-08.org.nvmexpress:uuid:... --limit host=iops=50k
      For this host, with these limits.
  gangway add --export nqn=nqn.2014-08.org.example:backup,drive=0000:01:00.0,read-only
      One more export of a drive that is served already.
  gangway add pci:0000:02:00.0 pci:0000:03:00.0 --export nqn=nqn.2014-08.org.example:db,ns=1=1/1,ns=2=2/1
      Two drives, of which hosts see one namespace each as 1 and 2.
  gangway add pci:0000:04:00.0 --to nqn.2014-08.org.example:db --ns 3=1/1
      A namespace of one more drive for hosts of that export, which see it at once, as 3.

What is not said is as it was said to `serve`: who may connect (--allow-host, --allow-any-host), what hosts may do
(--allow, --refuse, --allow-for; all three together), limits, --read-only, --derive-ids and --prp. It lasts as long as
the server: give `serve` the same options for its next start. Ctrl-C while drives are started takes all of it back.

Exit codes:
  0  done
  1  failed, or refused by the server, which knows what else there is; nothing has changed
  2  the command line is wrong";

/// Adds drives and exports to a running server, and namespaces to an export.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Add {
    /// Drive to serve: `pci:ADDRESS`, `vfio-user:/PATH/TO/SOCKET` or `emulated:OPTIONS`, as --device of `serve`. Without
    /// one: exports of drives that are served already
    #[arg(value_name = "DEVICE", required_unless_present_any = ["export", "to"])]
    device: Vec<DeviceAddress>,
    #[command(flatten)]
    terms: Terms,
    /// Add namespaces (--ns) to the export of this name, on its own terms. It must be one that lists namespaces (`ns=`)
    #[arg(long, value_name = "NQN", requires = "ns")]
    to: Option<Nqn>,
    /// A namespace to add: `NSID=DRIVE/NSID`, the first as hosts know it, or `DRIVE/NSID` for one that keeps its number;
    /// may be given several times. DRIVE is as for --export
    #[arg(long, value_name = "NSID=DRIVE/NSID", requires = "to")]
    ns: Vec<NamespaceArg>,
    #[command(flatten)]
    server: Server,
    /// How to show what was added
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Add {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        if self.to.is_some()
            && let Err(problem) = self.terms.check_for_namespaces(self.device.len())
        {
            eprintln!("error: {problem}");
            return Ok(Exit::Usage);
        }
        let request = Request::Add {
            devices: self.device.iter().map(absolute).collect::<Result<_, _>>()?,
            terms: Box::new(self.terms.clone()),
            to: self.to.as_ref().map(ToString::to_string),
            namespaces: self.ns.clone(),
        };
        let added: Added = self.server.connect()?.ask(&request)?;
        match self.output {
            Format::Json => output::print_json(&added)?,
            Format::Table => self.show(&added)?,
        }
        Ok(Exit::Success)
    }

    fn show(&self, added: &Added) -> anyhow::Result<()> {
        for export in &added.exports {
            announce(&export.nqn, &export.description, &added.addresses)?;
        }
        if let Some(export) = &self.to {
            let nsids: Vec<String> = added.namespaces.iter().map(ToString::to_string).collect();
            output::print(&format!("Ready: namespace {} of {export}", nsids.join(", ")))?;
        }
        Ok(())
    }
}

/// The same device for a process in another folder.
fn absolute(device: &DeviceAddress) -> anyhow::Result<DeviceAddress> {
    let whole = |path: &PathBuf| std::path::absolute(path).context("there is no current folder");
    Ok(match device {
        DeviceAddress::VfioUser(path) => DeviceAddress::VfioUser(whole(path)?),
        DeviceAddress::Emulated(config) => {
            let mut config = config.clone();
            if let Backing::File(path) = &mut config.backing {
                *path = whole(path)?;
            }
            DeviceAddress::Emulated(config)
        }
        DeviceAddress::Pci(address) => DeviceAddress::Pci(*address),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        add: Add,
    }

    fn parse(arguments: &[&str]) -> Result<Add, clap::Error> {
        Line::try_parse_from(std::iter::once(&"add").chain(arguments)).map(|line| line.add)
    }

    #[test]
    fn something_has_to_be_named() {
        let export = "nqn=nqn.2014-08.org.example:a,drive=S1";
        let to = "nqn.2014-08.org.example:a";
        for right in [
            &["emulated"][..],
            &["--export", export],
            &["emulated", "--export", export, "--read-only"],
            &["--to", to, "--ns", "3=S1/1"],
            &["emulated", "--to", to, "--ns", "1/1", "--ns", "4=1/2"],
        ] {
            assert!(parse(right).is_ok(), "{right:?}");
        }
        for wrong in [
            &[][..],
            &["--read-only"],
            &["nvme0"],
            &["--to", to],
            &["--ns", "3=S1/1"],
            &["emulated", "--ns", "1/1"],
            &["--to", to, "--ns", "3"],
            &["emulated", "--nqn", to, "--export", export],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["--read-only", "--prp"] {
            let with_terms = parse(&["--to", to, "--ns", "3=S1/1", wrong]).unwrap();
            assert_eq!(with_terms.run().unwrap(), Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn paths_are_those_of_the_folder_that_they_were_written_in() {
        let here = std::env::current_dir().unwrap();
        let of = |text: &str| absolute(&text.parse().unwrap()).unwrap().to_string();
        assert_eq!(of("vfio-user:nvme.sock"), format!("vfio-user:{}/nvme.sock", here.display()));
        assert_eq!(of("emulated:file=d.img"), format!("emulated:file={}/d.img", here.display()));
        for whole in ["pci:0000:01:00.0", "vfio-user:/run/nvme.sock", "emulated:size=2GiB", "emulated"] {
            assert_eq!(of(whole), whole);
        }
    }
}
