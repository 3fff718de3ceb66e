//! NVMe qualified names and host identifiers (NVMe Base 2.0, 4.5 and 5.27.1.25).

use core::fmt;
use core::str::FromStr;

/// An NVMe qualified name: UTF-8, at most 223 bytes, starting with `nqn.`.
///
/// Names are compared byte for byte, as the specification wants it. What follows the `nqn.` is not checked
/// beyond control characters: names in use do not all follow the form that the specification gives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(Box<str>);

impl Nqn {
    /// The most bytes a name may have.
    pub const MAX_LENGTH: usize = 223;

    /// Checks `name` and takes it.
    ///
    /// # Errors
    /// When `name` is empty, too long, does not start with `nqn.`, ends there, or has a control character.
    pub fn new(name: &str) -> Result<Self, NqnError> {
        if name.is_empty() {
            return Err(NqnError::Empty);
        }
        if name.len() > Self::MAX_LENGTH {
            return Err(NqnError::TooLong(name.len()));
        }
        if name.strip_prefix("nqn.").is_none_or(str::is_empty) {
            return Err(NqnError::Prefix);
        }
        if name.chars().any(char::is_control) {
            return Err(NqnError::ControlCharacter);
        }
        Ok(Self(name.into()))
    }

    /// The name of the discovery subsystem, [`DISCOVERY_NQN`](super::DISCOVERY_NQN).
    #[must_use]
    pub fn discovery() -> Self {
        Self(super::DISCOVERY_NQN.into())
    }

    /// Whether this is the well-known name of the discovery subsystem.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        &*self.0 == super::DISCOVERY_NQN
    }

    /// The name in a field of 256 bytes, ended by a zero byte. What follows that byte is not looked at.
    ///
    /// # Errors
    /// When the field is not ended, is not UTF-8, or holds no valid name.
    pub fn from_field(field: &[u8; 256]) -> Result<Self, NqnError> {
        let end = field.iter().position(|&byte| byte == 0).ok_or(NqnError::NotTerminated)?;
        Self::new(str::from_utf8(&field[..end]).map_err(|_| NqnError::NotUtf8)?)
    }

    /// The name as a field of 256 bytes, padded with zeroes.
    #[must_use]
    pub fn to_field(&self) -> [u8; 256] {
        let mut field = [0; 256];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(name: &str) -> Result<Self, NqnError> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Nqn {
    type Error = NqnError;

    fn try_from(name: &str) -> Result<Self, NqnError> {
        Self::new(name)
    }
}

impl AsRef<str> for Nqn {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Nqn {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Nqn {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why something is no NVMe qualified name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NqnError {
    /// There is no text.
    Empty,
    /// More than 223 bytes; how many.
    TooLong(usize),
    /// Does not start with `nqn.` followed by something.
    Prefix,
    /// Has a control character.
    ControlCharacter,
    /// Is not UTF-8.
    NotUtf8,
    /// The field of 256 bytes has no zero byte.
    NotTerminated,
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the NQN is empty"),
            Self::TooLong(length) => {
                write!(f, "the NQN has {length} bytes, but at most {} are allowed", Nqn::MAX_LENGTH)
            }
            Self::Prefix => {
                f.write_str("the NQN must start with \"nqn.\", as in nqn.2014-08.org.example:disk1")
            }
            Self::ControlCharacter => f.write_str("the NQN has a control character in it"),
            Self::NotUtf8 => f.write_str("the NQN is not UTF-8"),
            Self::NotTerminated => f.write_str("the NQN is not ended by a zero byte within its 256 bytes"),
        }
    }
}

impl std::error::Error for NqnError {}

/// A host identifier of 128 bits. Associations with the same one belong to the same host.
///
/// Printed as a UUID, in the order of its bytes, as Linux hosts do.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub [u8; 16]);

impl HostId {
    /// Whether all bytes are zero: no identifier.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        u128::from_ne_bytes(self.0) == 0
    }

    /// The name that is made of this identifier as a UUID. NVMe Base 2.0, 4.5.
    #[must_use]
    pub fn nqn(&self) -> Nqn {
        Nqn(format!("nqn.2014-08.org.nvmexpress:uuid:{self}").into())
    }
}

impl From<[u8; 16]> for HostId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &[u8]) -> [u8; 256] {
        let mut field = [0; 256];
        field[..text.len()].copy_from_slice(text);
        field
    }

    #[test]
    fn names_in_use_are_accepted() {
        for name in [
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            super::super::DISCOVERY_NQN,
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.x",
            "nqn.2014-08.org.exämple:ü",
        ] {
            assert_eq!(Nqn::new(name).unwrap(), name);
        }
        assert!(Nqn::discovery().is_discovery());
        assert_eq!(Nqn::new(super::super::DISCOVERY_NQN), Ok(Nqn::discovery()));
    }

    #[test]
    fn a_name_has_at_most_223_bytes() {
        let longest = format!("nqn.{}", "a".repeat(219));
        assert_eq!(Nqn::new(&longest).unwrap().as_str().len(), 223);
        assert_eq!(Nqn::new(&format!("{longest}b")), Err(NqnError::TooLong(224)));
    }

    #[test]
    fn what_is_no_name_says_why() {
        assert_eq!(Nqn::new(""), Err(NqnError::Empty));
        assert_eq!(Nqn::new("iqn.2014-08.org.example:a"), Err(NqnError::Prefix));
        assert_eq!(Nqn::new("NQN.2014-08.org.example:a"), Err(NqnError::Prefix));
        assert_eq!(Nqn::new("nqn."), Err(NqnError::Prefix));
        assert_eq!(Nqn::new("nqn.a\nb"), Err(NqnError::ControlCharacter));
        assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::NotTerminated));
        assert_eq!(Nqn::from_field(&[0; 256]), Err(NqnError::Empty));
        assert_eq!(Nqn::from_field(&field(b"nqn.\xff")), Err(NqnError::NotUtf8));
        assert_eq!(NqnError::TooLong(300).to_string(), "the NQN has 300 bytes, but at most 223 are allowed");
    }

    #[test]
    fn a_field_ends_at_its_first_zero_byte() {
        let name = Nqn::from_field(&field(b"nqn.a\0garbage")).unwrap();
        assert_eq!(name, "nqn.a");
        assert_eq!(name.to_field(), field(b"nqn.a"));
        assert_eq!(format!("{name:>7}|{name:?}"), "  nqn.a|\"nqn.a\"");
    }

    #[test]
    fn a_host_identifier_is_printed_as_a_uuid() {
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = index as u8 * 0x11;
        }
        assert_eq!(HostId(bytes).to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert!(HostId::default().is_zero() && !HostId(bytes).is_zero());
        let name = HostId(bytes).nqn();
        assert_eq!(name, "nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(Nqn::new(name.as_str()), Ok(name));
    }
}
