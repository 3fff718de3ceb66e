//! The Connect command as a controller sees it: parsing, checking, and the answers that it can have.
//!
//! Everything here depends on the command alone. What depends on the state of a subsystem (does it exist, may this
//! host use it, is there such a controller) is decided by the caller, which finds the matching answers as
//! constructors of [`ConnectError`]. NVMe Base 2.0, 6.3; NVMe over Fabrics 1.1, 3.3.

use std::time::Duration;

use gangway_spec::fabrics::{
    CNTLID_DYNAMIC, CNTLID_MAX, ConnectCommand, ConnectData, ConnectInvalidParameter as Parameter, HostId,
    Nqn, NqnError,
};
use gangway_spec::{Status, SubmissionQueueEntry};
use zerocopy::FromBytes;

/// Length in bytes of the data that every Connect command carries.
pub const CONNECT_DATA_LENGTH: usize = size_of::<ConnectData>();

/// A Connect command whose fields are valid in themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectRequest {
    /// The queue to create: 0 is an admin queue (and so a new controller), others are I/O queues.
    pub qid: u16,
    /// Entries of the submission queue, 1's based, at least 2.
    pub queue_size: u16,
    /// The host does without SQ flow control: SQHD means nothing, and C2HData may carry SUCCESS.
    pub flow_control_disabled: bool,
    /// Keep Alive Timeout, zero when the host wants none. Means nothing on an I/O queue.
    pub kato: Duration,
    /// The host's identifier.
    pub host_id: HostId,
    /// The controller of an I/O queue; `FFFFh` (dynamic) on an admin queue.
    pub cntlid: u16,
    /// The subsystem that the host wants.
    pub subsystem: Nqn,
    /// The name of the host; the one made of its identifier if it gives none.
    pub host: Nqn,
}

impl ConnectRequest {
    /// Checks a Connect command and its data.
    ///
    /// # Errors
    /// The status, and the offset of the field that is at fault, that the host has to get.
    pub fn parse(entry: &SubmissionQueueEntry, data: &[u8]) -> Result<ConnectRequest, ConnectError> {
        let command = ConnectCommand::from(*entry);
        if command.recfmt.get() != 0 {
            return Err(ConnectError::new(
                Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(),
                "unknown record format",
            ));
        }
        let data = ConnectData::ref_from_bytes(data).map_err(|_| {
            ConnectError::new(Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "data is not 1024 bytes")
        })?;

        // The field is 0's based. A queue of one entry can never hold a command, since a full queue has an empty slot.
        let queue_size = match command.sqsize.get() {
            0 => return Err(ConnectError::invalid(Parameter::SQSIZE, "queue of a single entry")),
            size => size
                .checked_add(1)
                .ok_or(ConnectError::invalid(Parameter::SQSIZE, "queue of 65536 entries"))?,
        };
        let qid = command.qid.get();
        if qid == u16::MAX {
            return Err(ConnectError::invalid(Parameter::QID, "queue identifier FFFFh"));
        }
        let cntlid = data.cntlid.get();
        if qid == 0 && cntlid != CNTLID_DYNAMIC {
            return Err(ConnectError::invalid(
                Parameter::CNTLID,
                "controllers are dynamic: CNTLID must be FFFFh",
            ));
        }
        if qid != 0 && cntlid > CNTLID_MAX {
            return Err(ConnectError::unknown_controller());
        }
        let invalid = |parameter, reason| move |_| ConnectError::invalid(parameter, reason);
        let subsystem = data.subnqn().map_err(invalid(Parameter::SUBNQN, "invalid subsystem NQN"))?;
        let host_id = data.hostid();
        let host = match data.hostnqn() {
            // SPDK 26.05's load generator leaves the name out, which nvmet and SPDK's target let pass. The name is the one
            // that SPDK's driver has by default, and no right comes with it: whoever leaves it out could write it as well.
            Err(NqnError::Empty) if !host_id.is_zero() => host_id.nqn(),
            named => named.map_err(invalid(Parameter::HOSTNQN, "invalid host NQN"))?,
        };

        Ok(ConnectRequest {
            qid,
            queue_size,
            flow_control_disabled: command.disables_sq_flow_control(),
            kato: Duration::from_millis(command.kato.get().into()),
            host_id,
            cntlid,
            subsystem,
            host,
        })
    }

    /// Whether the request is for an admin queue, and so for a new controller.
    pub fn is_admin(&self) -> bool {
        self.qid == 0
    }

    /// Checks that the queue is not larger than `most` entries (1's based: CAP.MQES + 1 for an I/O queue).
    ///
    /// # Errors
    /// Connect Invalid Parameters at SQSIZE.
    pub fn check_queue_size(&self, most: u16) -> Result<(), ConnectError> {
        if self.queue_size > most {
            return Err(ConnectError::invalid(Parameter::SQSIZE, "queue larger than CAP.MQES allows"));
        }
        Ok(())
    }

    /// Checks that an I/O queue is asked for by the host that owns the association, which `admin` made.
    ///
    /// # Errors
    /// Connect Invalid Parameters at the field that differs.
    pub fn check_association(&self, admin: &ConnectRequest) -> Result<(), ConnectError> {
        if self.subsystem != admin.subsystem {
            return Err(ConnectError::invalid(Parameter::SUBNQN, "subsystem is not that of the controller"));
        }
        if self.host != admin.host {
            return Err(ConnectError::invalid(Parameter::HOSTNQN, "host NQN is not that of the controller"));
        }
        if self.host_id != admin.host_id {
            return Err(ConnectError::invalid(
                Parameter::HOSTID,
                "host identifier is not that of the controller",
            ));
        }
        Ok(())
    }
}

/// Completion dwords 0 and 1 of a Connect command that succeeded: the controller's identifier, and no authentication.
pub fn accepted(cntlid: u16) -> u64 {
    cntlid.into()
}

/// Why a Connect command fails: the status, and which parameter is at fault.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("Connect refused: {reason}, {}", status.fabrics_name().unwrap_or("unknown status"))]
pub struct ConnectError {
    /// The status of the completion. Do Not Retry is set when trying again cannot help.
    pub status: Status,
    /// The parameter at fault, if it is one.
    pub parameter: Option<Parameter>,
    /// What is wrong, for a log.
    pub reason: &'static str,
}

impl ConnectError {
    fn new(status: Status, reason: &'static str) -> ConnectError {
        ConnectError { status, parameter: None, reason }
    }

    fn invalid(parameter: Parameter, reason: &'static str) -> ConnectError {
        let status = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
        ConnectError { status, parameter: Some(parameter), reason }
    }

    /// There is no such subsystem here.
    pub fn unknown_subsystem() -> ConnectError {
        ConnectError::invalid(Parameter::SUBNQN, "no such subsystem")
    }

    /// An I/O queue for a controller that does not exist (any more).
    pub fn unknown_controller() -> ConnectError {
        ConnectError::invalid(Parameter::CNTLID, "no such controller")
    }

    /// The queue identifier is beyond what the controller granted.
    pub fn queue_out_of_range() -> ConnectError {
        ConnectError::invalid(Parameter::QID, "queue identifier beyond Number of Queues")
    }

    /// The host is not on the list of those that may use the subsystem.
    pub fn host_not_allowed() -> ConnectError {
        ConnectError {
            status: Status::CONNECT_INVALID_HOST.with_dnr(),
            parameter: Some(Parameter::HOSTNQN),
            reason: "host is not allowed",
        }
    }

    /// The host identifier is that of a host with another name. Whoever has it would be taken for that host.
    pub fn host_identifier_taken() -> ConnectError {
        ConnectError::invalid(Parameter::HOSTID, "another host has this host identifier")
    }

    /// No controller or queue can be had at the moment; the host may try again.
    pub fn busy() -> ConnectError {
        ConnectError::new(Status::CONNECT_CONTROLLER_BUSY, "no resources at the moment")
    }

    /// The queue exists already, or an I/O queue is connected while the controller is not enabled.
    pub fn out_of_sequence() -> ConnectError {
        ConnectError::new(
            Status::COMMAND_SEQUENCE_ERROR.with_dnr(),
            "queue connected twice or before it is due",
        )
    }

    /// Completion dwords 0 and 1: they name the parameter.
    pub fn result(&self) -> u64 {
        self.parameter.map_or(0, |parameter| parameter.into_bits().into())
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn command(qid: u16, sqsize: u16) -> ConnectCommand {
        let mut command = ConnectCommand::new(qid, 1);
        command.sqsize.set(sqsize);
        command.kato.set(5000);
        command
    }

    fn data(cntlid: u16) -> ConnectData {
        let (subsystem, host) = (nqn("nqn.2014-08.org.example:drive"), nqn("nqn.2014-08.org.example:host"));
        let mut data = ConnectData::new(HostId([7; 16]), &subsystem, &host);
        data.cntlid.set(cntlid);
        data
    }

    fn nqn(text: &str) -> Nqn {
        text.parse().unwrap()
    }

    fn parse(command: ConnectCommand, data: ConnectData) -> Result<ConnectRequest, ConnectError> {
        ConnectRequest::parse(&command.into(), data.as_bytes())
    }

    /// Status, IPO and IATTR of a request that must be refused.
    fn refused(command: ConnectCommand, data: ConnectData) -> (Status, u64) {
        let error = parse(command, data).unwrap_err();
        (error.status, error.result())
    }

    const INVALID: Status = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    const IN_DATA: u64 = 1 << 16;

    #[test]
    fn an_admin_connect_is_read_field_by_field() {
        let mut command = command(0, 31);
        command.cattr = 1 << 2;
        let request = parse(command, data(0xffff)).unwrap();
        assert!(request.is_admin());
        assert_eq!(request.queue_size, 32);
        assert!(request.flow_control_disabled);
        assert_eq!(request.kato, Duration::from_secs(5));
        assert_eq!(request.host_id, HostId([7; 16]));
        assert_eq!(request.subsystem, nqn("nqn.2014-08.org.example:drive"));
        assert_eq!(request.host, nqn("nqn.2014-08.org.example:host"));
    }

    #[test]
    fn flow_control_stays_on_unless_its_own_bit_is_set() {
        let mut command = command(0, 31);
        command.cattr = 0b1011;
        assert!(!parse(command, data(0xffff)).unwrap().flow_control_disabled);
    }

    #[test]
    fn an_unknown_record_format_is_incompatible() {
        let mut command = command(0, 31);
        command.recfmt.set(1);
        assert_eq!(refused(command, data(0xffff)), (Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(), 0));
    }

    #[test]
    fn queue_sizes_of_one_and_of_65536_entries_are_refused_at_sqsize() {
        assert_eq!(refused(command(0, 0), data(0xffff)), (INVALID, 44));
        assert_eq!(refused(command(0, 0xffff), data(0xffff)), (INVALID, 44));
        assert_eq!(parse(command(0, 1), data(0xffff)).unwrap().queue_size, 2);
        assert_eq!(parse(command(0, 0xfffe), data(0xffff)).unwrap().queue_size, 0xffff);
    }

    #[test]
    fn a_queue_beyond_the_limit_is_refused_at_sqsize() {
        let request = parse(command(1, 128), data(1)).unwrap();
        assert!(request.check_queue_size(129).is_ok());
        assert_eq!(request.check_queue_size(128).unwrap_err().result(), 44);
    }

    #[test]
    fn static_controllers_are_refused_at_cntlid() {
        for cntlid in [0, 1, 0xfffe] {
            assert_eq!(refused(command(0, 31), data(cntlid)), (INVALID, 16 | IN_DATA));
        }
    }

    #[test]
    fn an_io_queue_needs_a_controller_that_can_exist() {
        assert_eq!(parse(command(1, 31), data(0xffef)).unwrap().cntlid, 0xffef);
        for cntlid in [0xfff0, 0xffff] {
            assert_eq!(refused(command(1, 31), data(cntlid)), (INVALID, 16 | IN_DATA));
        }
        assert_eq!(refused(command(0xffff, 31), data(1)), (INVALID, 42));
    }

    #[test]
    fn invalid_names_are_refused_at_their_offset() {
        let mut wrong = data(0xffff);
        wrong.subnqn = [b'x'; 256];
        assert_eq!(refused(command(0, 31), wrong), (INVALID, 256 | IN_DATA));
        let mut wrong = data(0xffff);
        wrong.hostnqn = [b'x'; 256];
        assert_eq!(refused(command(0, 31), wrong), (INVALID, 512 | IN_DATA));
    }

    #[test]
    fn a_host_without_a_name_has_that_of_its_identifier() {
        let named = |cntlid, name| {
            let mut data = data(cntlid);
            data.hostnqn = name;
            data
        };
        let request = parse(command(0, 31), named(0xffff, [0; 256])).unwrap();
        assert_eq!(request.host, nqn("nqn.2014-08.org.nvmexpress:uuid:07070707-0707-0707-0707-070707070707"));

        let queue = parse(command(1, 31), named(1, [0; 256])).unwrap();
        assert!(queue.check_association(&request).is_ok());
        let written_out = named(1, request.host.to_field());
        assert!(parse(command(1, 31), written_out).unwrap().check_association(&request).is_ok());
        let other = parse(command(0, 31), data(0xffff)).unwrap();
        assert_eq!(queue.check_association(&other).unwrap_err().result(), 512 | IN_DATA);

        let mut nobody = named(0xffff, [0; 256]);
        nobody.hostid = [0; 16];
        assert_eq!(refused(command(0, 31), nobody), (INVALID, 512 | IN_DATA));
    }

    #[test]
    fn data_of_another_length_is_refused() {
        let entry = SubmissionQueueEntry::from(command(0, 31));
        for length in [0, 1023, 1025] {
            let error = ConnectRequest::parse(&entry, &vec![0; length]).unwrap_err();
            assert_eq!(error.status, Status::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
    }

    #[test]
    fn an_io_queue_of_another_host_does_not_join_the_association() {
        let admin = parse(command(0, 31), data(0xffff)).unwrap();
        assert!(parse(command(1, 31), data(1)).unwrap().check_association(&admin).is_ok());

        let mut other = data(1);
        other.hostid[15] = 8;
        let error = parse(command(1, 31), other).unwrap().check_association(&admin).unwrap_err();
        assert_eq!((error.status, error.result()), (INVALID, IN_DATA));

        let mut other = data(1);
        other.hostnqn = nqn("nqn.2014-08.org.example:other").to_field();
        let error = parse(command(1, 31), other).unwrap().check_association(&admin).unwrap_err();
        assert_eq!(error.result(), 512 | IN_DATA);

        let mut other = data(1);
        other.subnqn = nqn("nqn.2014-08.org.example:other").to_field();
        let error = parse(command(1, 31), other).unwrap().check_association(&admin).unwrap_err();
        assert_eq!(error.result(), 256 | IN_DATA);
    }

    #[test]
    fn only_a_lack_of_resources_may_be_tried_again() {
        assert!(!ConnectError::busy().status.dnr());
        for error in [
            ConnectError::host_not_allowed(),
            ConnectError::unknown_subsystem(),
            ConnectError::unknown_controller(),
            ConnectError::out_of_sequence(),
        ] {
            assert!(error.status.dnr(), "{error}");
        }
    }
}
