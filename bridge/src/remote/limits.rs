//! Limits that this target sets itself, wherever they have to be said.

use std::time::Duration;

/// Bytes of data that an I/O capsule may carry. IOCCSZ follows from it. Linux sends writes up to this size without
/// waiting for an R2T.
pub(crate) const IN_CAPSULE_DATA: u32 = 8192;
/// Entries of an I/O queue at most: CAP.MQES and MAXCMD.
pub(crate) const QUEUE_ENTRIES: u16 = 1024;
/// Entries of an admin queue at most.
pub(crate) const ADMIN_QUEUE_ENTRIES: u16 = 256;
/// Asynchronous Event Requests at most: AERL + 1.
pub(crate) const ASYNC_EVENT_REQUESTS: u8 = 4;
/// Abort commands at most: ACL + 1.
pub(crate) const ABORTS: u8 = 4;
/// MAXH2CDATA: bytes of an H2CData PDU at most.
pub(crate) const MAX_H2C_DATA: u32 = 1 << 20;
/// Bytes at most of one read of a log page that is kept here. MDTS of the discovery controller says so.
pub(crate) const OWN_LOG_PAGE: u32 = 128 << 10;
/// CRDT1, of commands that a reset of the drive interrupted: it has ended by then, or commands are held until it has.
pub(crate) const RETRY_AFTER_RESET: Duration = Duration::from_secs(1);
/// CRDT2, of commands to a drive that is away, or to a namespace that is formatted. Linux tries five times: this gives it
/// so much longer to come back.
pub(crate) const RETRY_WHILE_AWAY: Duration = Duration::from_secs(5);
/// How long a peer may take from the TCP connection to a complete Connect.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// CAP.TO: what enabling a controller takes at most.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_millis(7500);
