//! The address of a PCI function.

use std::{fmt, str::FromStr};

/// Domain, bus, device and function, printed as the kernel does: `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// The text is not a PCI address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a PCI address: write it as 0000:01:00.0 (`gangway list` shows all of them)")]
pub(crate) struct ParseAddressError(String);

impl FromStr for PciAddress {
    type Err = ParseAddressError;

    /// Takes `0000:01:00.0`, `01:00.0` (domain 0) and either with `pci:` in front.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.strip_prefix("pci:").unwrap_or(text)).ok_or_else(|| ParseAddressError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
    // Domains of more than four digits are real: Intel's VMD counts from 10000.
    let address = PciAddress {
        domain: hex(domain, 8)?,
        bus: hex(bus, 2)?.try_into().ok()?,
        device: hex(device, 2)?.try_into().ok()?,
        function: hex(function, 1)?.try_into().ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

fn hex(text: &str, digits: usize) -> Option<u32> {
    // `from_str_radix` alone would take a sign.
    let valid = !text.is_empty() && text.len() <= digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| u32::from_str_radix(text, 16).ok())?
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        text.parse::<PciAddress>().ok().map(|address| address.to_string())
    }

    #[test]
    fn addresses_are_taken_with_and_without_domain_and_prefix() {
        assert_eq!(shown("0000:01:00.0").as_deref(), Some("0000:01:00.0"));
        assert_eq!(shown("01:00.0").as_deref(), Some("0000:01:00.0"));
        assert_eq!(shown("pci:0000:01:00.0").as_deref(), Some("0000:01:00.0"));
        assert_eq!(shown("pci:C1:1F.7").as_deref(), Some("0000:c1:1f.7"));
        assert_eq!(shown("10000:e1:00.0").as_deref(), Some("10000:e1:00.0"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "nvme0", "01:00", "01:20.0", "01:00.8", "+1:00.0", "0000:100:00.0", "0:01:00.00", ":01:00.0"]
        {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_sort_as_numbers() {
        let mut all: Vec<PciAddress> =
            ["10000:01:00.0", "0000:0a:00.0", "0000:09:00.1"].iter().map(|t| t.parse().unwrap()).collect();
        all.sort();
        assert_eq!(
            all.iter().map(|a| a.to_string()).collect::<Vec<_>>(),
            ["0000:09:00.1", "0000:0a:00.0", "10000:01:00.0"]
        );
    }
}
