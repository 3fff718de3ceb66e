//! The status of a completed command (NVMe Base 2.0, 3.3.3.2.1).

mod table;

use core::fmt;

/// A status field without the phase tag: SC 7:0, SCT 10:8, CRD 12:11, M 13, DNR 14.
///
/// Equality compares all of it. To ask which status it is, whatever its DNR, More and CRD, use [`Self::is`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status(u16);

impl Status {
    /// Status code type: generic command status.
    pub const SCT_GENERIC: u8 = 0;
    /// Status code type: specific to the command.
    pub const SCT_COMMAND_SPECIFIC: u8 = 1;
    /// Status code type: media and data integrity errors.
    pub const SCT_MEDIA: u8 = 2;
    /// Status code type: path related.
    pub const SCT_PATH: u8 = 3;
    /// Status code type: the vendor's.
    pub const SCT_VENDOR: u8 = 7;

    const CODE: u16 = 0x07ff;
    const MORE: u16 = 1 << 13;
    const DNR: u16 = 1 << 14;

    /// A status of code type `sct` (its lowest three bits) and code `sc`.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self(((sct & 0x7) as u16) << 8 | sc as u16)
    }

    /// A status from the 15 bits above the phase tag; bit 15 is ignored.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// The 15 bits, phase tag not included.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Status code type, 0 to 7.
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 0x7
    }

    /// Status code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Do Not Retry: the same command would fail again.
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 & Self::DNR != 0
    }

    /// More: the error log has an entry about this command.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// Command retry delay: 0 none, 1 to 3 which of the CRDT fields of Identify Controller applies.
    #[must_use]
    pub const fn crd(self) -> u8 {
        (self.0 >> 11) as u8 & 0x3
    }

    /// The same status with Do Not Retry.
    #[must_use]
    pub const fn with_dnr(self) -> Self {
        Self(self.0 | Self::DNR)
    }

    /// The same status with More.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | Self::MORE)
    }

    /// The same status with this command retry delay, 0 to 3.
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Self {
        Self((self.0 & !(0x3 << 11)) | (((crd & 0x3) as u16) << 11))
    }

    /// Whether the command succeeded. Only status code type and code count.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & Self::CODE == 0
    }

    /// Whether code type and code are those of `other`, whatever DNR, More and CRD are.
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        self.0 & Self::CODE == other.0 & Self::CODE
    }

    /// `Ok` when the command succeeded, else the status as the error.
    ///
    /// # Errors
    /// Every status but success.
    pub const fn into_result(self) -> Result<(), Self> {
        if self.is_success() { Ok(()) } else { Err(self) }
    }

    /// The specification's name.
    ///
    /// Command specific codes from 80h mean one thing for I/O commands and another for fabrics commands. This
    /// is the one for I/O commands where there is one; [`Self::fabrics_name`] is the other.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match table::name(self.0 & Self::CODE) {
            None => table::fabrics_name(self.0 & Self::CODE),
            name => name,
        }
    }

    /// The specification's name when the command was a fabrics command (NVMe Base 2.0, 3.3.3.2.1.2).
    #[must_use]
    pub const fn fabrics_name(self) -> Option<&'static str> {
        match table::fabrics_name(self.0 & Self::CODE) {
            None => table::name(self.0 & Self::CODE),
            name => name,
        }
    }
}

impl From<u16> for Status {
    fn from(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        status.bits()
    }
}

/// Prints name, codes and flags. Where the code alone leaves open what it means, both names are printed.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.fabrics_name()) {
            (Some(name), Some(other)) if name != other => write!(f, "{name} or {other}")?,
            (Some(name), _) => f.write_str(name)?,
            (None, _) => f.write_str(match self.sct() {
                Self::SCT_GENERIC => "Unknown generic status",
                Self::SCT_COMMAND_SPECIFIC => "Unknown command specific status",
                Self::SCT_MEDIA => "Unknown media error",
                Self::SCT_PATH => "Unknown path error",
                Self::SCT_VENDOR => "Vendor specific status",
                _ => "Status of a reserved type",
            })?,
        }
        write!(f, " (SCT {:X}h SC {:02X}h", self.sct(), self.sc())?;
        if self.crd() != 0 {
            write!(f, ", CRD {}", self.crd())?;
        }
        if self.more() {
            f.write_str(", More")?;
        }
        if self.dnr() {
            f.write_str(", DNR")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let status = Status::from_bits(0x7fff);
        assert_eq!((status.sct(), status.sc(), status.crd()), (7, 0xff, 3));
        assert!(status.more() && status.dnr());
        let path = Status::ANA_INACCESSIBLE;
        assert_eq!(path.bits(), 0x302);
        assert_eq!(path.with_crd(2).bits(), 0x302 | 2 << 11);
        assert_eq!(path.with_crd(3).with_crd(1).crd(), 1);
        assert_eq!(path.with_dnr().bits(), 0x302 | 1 << 14);
        assert_eq!(path.with_more().bits(), 0x302 | 1 << 13);
        assert_eq!(Status::from_bits(0xffff).bits(), 0x7fff);
    }

    #[test]
    fn success_and_identity_depend_on_the_code_alone() {
        assert!(Status::SUCCESS.with_dnr().with_crd(3).with_more().is_success());
        assert!(!Status::new(1, 0).is_success());
        assert!(Status::INVALID_FIELD.with_dnr().is(Status::INVALID_FIELD));
        assert!(!Status::INVALID_FIELD.is(Status::INVALID_OPCODE));
        assert_eq!(Status::SUCCESS.into_result(), Ok(()));
        let failed = Status::WRITE_FAULT.with_dnr();
        assert_eq!(failed.into_result(), Err(failed));
    }

    #[test]
    fn a_person_can_read_a_status() {
        let cases = [
            (Status::SUCCESS, "Successful Completion (SCT 0h SC 00h)"),
            (Status::INVALID_FIELD.with_dnr(), "Invalid Field in Command (SCT 0h SC 02h, DNR)"),
            (
                Status::INTERNAL_ERROR.with_crd(1).with_more().with_dnr(),
                "Internal Error (SCT 0h SC 06h, CRD 1, More, DNR)",
            ),
            (
                Status::CONNECT_INVALID_PARAMETERS,
                "Attempted Write to Read Only Range or Connect Invalid Parameters (SCT 1h SC 82h)",
            ),
            (Status::AUTHENTICATION_REQUIRED, "Authentication Required (SCT 1h SC 91h)"),
            (Status::new(0, 0x7f), "Unknown generic status (SCT 0h SC 7Fh)"),
            (Status::new(7, 0x01), "Vendor specific status (SCT 7h SC 01h)"),
        ];
        for (status, text) in cases {
            assert_eq!(status.to_string(), text);
        }
    }

    #[test]
    fn a_code_with_two_meanings_has_both_names() {
        assert_eq!(Status::CONNECT_CONTROLLER_BUSY, Status::INVALID_PROTECTION_INFORMATION);
        assert_eq!(Status::CONNECT_CONTROLLER_BUSY.name(), Some("Invalid Protection Information"));
        assert_eq!(Status::CONNECT_CONTROLLER_BUSY.fabrics_name(), Some("Connect Controller Busy"));
        assert_eq!(Status::INVALID_FIELD.fabrics_name(), Status::INVALID_FIELD.name());
    }
}
