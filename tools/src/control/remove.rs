//! `gangway remove`.

use clap::Args;
use gangway_spec::fabrics::Nqn;

use super::Request;
use super::client::Server;
use crate::exit::Exit;
use crate::nvme::Consent;
use crate::output::{self, Format};
use crate::serve::{InUse, Removed};

const EXAMPLES: &str = "\
Examples:
  gangway remove nqn.2014-08.org.example:backup
      Hosts find it gone. A drive that no other export shows is shut down, and can be unbound.
  gangway remove pci:0000:02:00.0
      The drive with all exports that show it, by its address, its serial number or as `gangway status` shows it.
  gangway remove pci:0000:02:00.0 --yes
      Also while hosts use it: they lose their connections when what drives have of their commands is done.
  gangway remove --from nqn.2014-08.org.example:db --ns 3
      A namespace of an export that lists namespaces; its hosts keep the others.

Exit codes:
  0  done
  1  failed or refused; nothing has changed
  2  the command line is wrong
  3  refused because hosts use it
  4  done, but a drive was not shut down in order";

/// Takes exports and drives from a running server, and namespaces from an export.
///
/// A drive is shut down with the last export that shows it. Where hosts are connected, it asks.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Remove {
    /// Export, by its NQN, or drive
    #[arg(value_name = "NQN|DEVICE", required_unless_present = "from", conflicts_with = "from")]
    name: Vec<String>,
    /// Remove namespaces (--ns) from the export of this name
    #[arg(long, value_name = "NQN", requires = "ns")]
    from: Option<Nqn>,
    /// A namespace to remove, by the NSID that hosts know; may be given several times
    #[arg(long, value_name = "NSID", requires = "from")]
    ns: Vec<u32>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    server: Server,
    /// How to show what was removed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Remove {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut client = self.server.connect()?;
        let removed: Removed = match client.ask(&self.request(self.consent.yes)) {
            Err(error) if error.is::<InUse>() => {
                let loss = match (&self.from, self.ns.len()) {
                    (None, _) => "it",
                    (Some(_), 1) => "this namespace",
                    (Some(_), _) => "these namespaces",
                };
                if !self.consent.asked(&format!("{error}, which would lose {loss}"))? {
                    return Ok(Exit::InUse);
                }
                client.ask(&self.request(true))?
            }
            answer => answer?,
        };
        match self.output {
            Format::Json => output::print_json(&removed)?,
            Format::Table => self.show(&removed)?,
        }
        let not_in_order = removed.drives.iter().filter(|drive| !drive.in_order);
        let not_in_order: Vec<&str> = not_in_order.map(|drive| drive.name.as_str()).collect();
        if not_in_order.is_empty() {
            return Ok(Exit::Success);
        }
        eprintln!(
            "error: not shut down in order: {}; what was in a volatile write cache may be lost",
            output::printable(&not_in_order.join(", "))
        );
        Ok(Exit::NotInOrder)
    }

    fn request(&self, disconnect: bool) -> Request {
        match &self.from {
            Some(export) => {
                Request::RemoveFrom { subsystem: export.to_string(), namespaces: self.ns.clone(), disconnect }
            }
            None => Request::Remove { names: self.name.clone(), disconnect },
        }
    }

    fn show(&self, removed: &Removed) -> anyhow::Result<()> {
        for export in &removed.exports {
            output::print(&format!("Removed: {export}"))?;
        }
        if let Some(export) = &self.from {
            let nsids: Vec<String> = removed.namespaces.iter().map(ToString::to_string).collect();
            output::print(&format!("Removed: namespace {} of {export}", nsids.join(", ")))?;
        }
        for drive in &removed.drives {
            let how = if drive.in_order { "shut down" } else { "not shut down in order" };
            output::print(&format!("Removed: {} ({how})", output::printable(&drive.name)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        remove: Remove,
    }

    #[test]
    fn exports_and_drives_or_namespaces_of_one_export_are_named() {
        let parse = |arguments: &[&str]| {
            Line::try_parse_from(std::iter::once(&"remove").chain(arguments)).map(|line| line.remove)
        };
        let nqn = "nqn.2014-08.org.example:a";
        for right in
            [&[nqn][..], &["01:00.0", "S1", nqn, "--yes"], &["--from", nqn, "--ns", "3", "--ns", "4"]]
        {
            assert!(parse(right).is_ok(), "{right:?}");
        }
        for wrong in [&[][..], &["--ns", "3"], &["--from", nqn], &[nqn, "--from", nqn, "--ns", "3"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
