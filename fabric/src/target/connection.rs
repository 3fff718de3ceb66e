//! The state machine of a connection: what arrives. What is answered is in [`answer`].

mod answer;

pub use answer::DataEnd;

use gangway_spec::Status;
use gangway_spec::fabrics::fctype;
use zerocopy::{FromBytes, IntoBytes};

use super::command::{examine, fabrics_type};
use super::slots::{Command, Phase, Slot, Slots};
use super::{ADMIN_IN_CAPSULE_DATA, CapsuleData, Config, Event, Want};
use crate::digest::{self, DIGEST_LENGTH, DataDigest};
use crate::pdu::{
    CapsuleCmd, CommonHeader, DigestFlags, Framing, H2cData, IcReq, IcResp, MAX_HEADER, MAX_PDA,
    MAX_TERM_DATA, MIN_MAX_H2C_DATA, PduFlags, PduType, TermReq,
};
use crate::term::{Fatal, FatalErrorStatus};

/// What of the stream comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A header, of which `partial` may hold the beginning.
    Header,
    /// `pad` bytes of padding, `left` bytes of data and what is missing of `data_digest`, at least one of these not 0.
    Body {
        /// The command that the data belongs to, unless nobody wants it. If it is answered meanwhile, its slot
        /// stays free until the data ends, since no other command is read before.
        target: Option<Slot>,
        pad: u8,
        left: u32,
    },
    /// Nothing.
    Terminated,
}

/// What follows a header.
struct Body {
    pad: u8,
    /// Bytes of data.
    carried: u32,
    /// Whether a digest follows the data.
    digest: bool,
}

/// What Connect settled.
#[derive(Clone, Copy, Debug)]
struct Queue {
    qid: u16,
    size: u16,
    flow_control: bool,
    sq_head: u16,
}

/// The controller's side of one connection. See the [module](super) for how it is driven.
#[derive(Debug)]
pub struct Connection {
    stage: Stage,
    slots: Slots,
    /// Set by [`Connection::establish`].
    queue: Option<Queue>,
    /// The Connect command that was not answered yet.
    connecting: Option<Slot>,
    initialized: bool,
    /// How PDUs leave: the host's HPDA, and the digests that both sides use.
    framing: Framing,
    /// Of the PDU that `stage` is in.
    data_digest: DataDigest,
    /// Bytes in `partial`.
    collected: u8,
    config: Config,
    /// The beginning of a header whose end has not arrived.
    partial: [u8; MAX_HEADER],
}

impl Connection {
    /// A connection that waits for ICReq.
    pub fn new(config: Config) -> Self {
        let max_h2c_data = (config.max_h2c_data & !3).max(MIN_MAX_H2C_DATA);
        Self {
            stage: Stage::Header,
            slots: Slots::new(),
            queue: None,
            connecting: None,
            initialized: false,
            framing: Framing::PLAIN,
            data_digest: DataDigest::new(),
            collected: 0,
            config: Config { max_h2c_data, ..config },
            partial: [0; MAX_HEADER],
        }
    }

    /// Where the next bytes of the stream belong.
    #[inline]
    pub fn want(&self) -> Want {
        match self.stage {
            Stage::Header => {
                let collected = usize::from(self.collected);
                let (whole, known) = if collected < size_of::<CommonHeader>() {
                    (MAX_HEADER, size_of::<CommonHeader>())
                } else {
                    let whole = self.whole(&self.partial);
                    (whole, whole)
                };
                Want::Header {
                    at_most: whole.saturating_sub(collected),
                    at_least: known.saturating_sub(collected),
                }
            }
            Stage::Body { pad, .. } if pad > 0 => {
                Want::Header { at_most: usize::from(pad), at_least: usize::from(pad) }
            }
            Stage::Body { left: 0, .. } => {
                Want::Header { at_most: self.data_digest.missing(), at_least: self.data_digest.missing() }
            }
            Stage::Body { target, left, .. } => {
                match target.and_then(|slot| Some((slot, self.slots.get(slot)?))) {
                    Some((slot, command)) if !command.discard => {
                        Want::Payload { slot, offset: command.received, remaining: left }
                    }
                    _ => Want::Discard { remaining: left },
                }
            }
            Stage::Terminated => Want::Nothing,
        }
    }

    /// Takes bytes of a header from the front of `bytes`, and appends to `out` what the connection answers by
    /// itself. Returns how many bytes were taken, and at most one event: call it again with the rest while
    /// [`Connection::want`] asks for a header. Takes nothing when it asks for something else.
    ///
    /// # Errors
    /// The host broke the protocol. The connection is over: pass the error to [`Connection::terminate`], send
    /// what that wrote, and close.
    #[inline(always)]
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event>), Fatal> {
        // Most of what arrives is whole capsules without padding. They are read where they lie.
        match self.stage {
            Stage::Header if self.collected == 0 => {
                if let Some((capsule, body, taken)) = self.usual_capsule(bytes) {
                    return self.capsule(capsule, body, taken);
                }
            }
            Stage::Body { target, pad: 0, left: 0 } => return Ok(self.receive_data_digest(target, bytes)),
            _ => {}
        }
        self.receive_other(bytes, out)
    }

    fn receive_other(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event>), Fatal> {
        let result = match self.stage {
            Stage::Header => self.receive_header(bytes, out),
            Stage::Body { target, pad, left } if pad > 0 => {
                let skipped = usize::from(pad).min(bytes.len());
                // At most `pad`, which is a u8.
                self.stage = Stage::Body { target, pad: pad - skipped as u8, left };
                Ok((skipped, None))
            }
            Stage::Body { .. } | Stage::Terminated => Ok((0, None)),
        };
        if result.is_err() {
            self.stage = Stage::Terminated;
        }
        result
    }

    fn receive_header(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event>), Fatal> {
        const COMMON: usize = size_of::<CommonHeader>();
        // Mostly all of the header is here, and is read where it lies.
        if self.collected == 0 && bytes.len() >= COMMON {
            let whole = self.check_common(&bytes[..COMMON])?;
            if let Some(header) = bytes.get(..whole) {
                return self.header(self.verified(header)?, whole, out);
            }
        }
        let mut taken = 0;
        if self.collect(bytes, &mut taken, COMMON) {
            let whole = self.check_common(&self.partial[..COMMON])?;
            if self.collect(bytes, &mut taken, whole) {
                let header = self.partial;
                self.collected = 0;
                return self.header(self.verified(&header[..whole])?, taken, out);
            }
        }
        Ok((taken, None))
    }

    /// Moves bytes behind `taken` into `partial` until it holds `whole`; says whether it does.
    fn collect(&mut self, bytes: &[u8], taken: &mut usize, whole: usize) -> bool {
        let collected = usize::from(self.collected);
        let n = whole.saturating_sub(collected).min(bytes.len() - *taken);
        self.partial[collected..collected + n].copy_from_slice(&bytes[*taken..*taken + n]);
        *taken += n;
        // At most 128: `whole` is a length of a header with its digest, and the largest header has none.
        self.collected = (collected + n) as u8;
        collected + n >= whole
    }

    /// Whether a PDU that starts with these bytes has a header digest.
    fn has_header_digest(&self, header: &[u8]) -> bool {
        self.framing.digests.contains(DigestFlags::HEADER) && PduType(header[0]) != PduType::H2C_TERM
    }

    /// Bytes of the header that starts with these, with its digest.
    fn whole(&self, header: &[u8]) -> usize {
        let digest = if self.has_header_digest(header) { DIGEST_LENGTH } else { 0 };
        usize::from(header[CommonHeader::HLEN as usize]) + digest
    }

    /// The header in `bytes`, without its digest, which is compared.
    #[inline]
    fn verified<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Fatal> {
        if !self.has_header_digest(bytes) {
            return Ok(bytes);
        }
        let Some((header, digest)) = bytes.split_last_chunk::<DIGEST_LENGTH>() else {
            return Err(Fatal::field(CommonHeader::HLEN, bytes));
        };
        let received = u32::from_le_bytes(*digest);
        if received != digest::digest(header) {
            return Err(Fatal::new(FatalErrorStatus::HEADER_DIGEST_ERROR, received, header));
        }
        Ok(header)
    }

    /// Checks what the first eight bytes tell, and returns the length of the header with its digest.
    fn check_common(&self, bytes: &[u8]) -> Result<usize, Fatal> {
        let Ok((common, _)) = CommonHeader::ref_from_prefix(bytes) else {
            return Err(Fatal::field(CommonHeader::HLEN, bytes));
        };
        let allowed_now = match common.pdu_type {
            PduType::CAPSULE_CMD | PduType::H2C_DATA => self.initialized,
            PduType::ICREQ => !self.initialized,
            PduType::H2C_TERM => true,
            _ => return Err(Fatal::field(CommonHeader::PDU_TYPE, bytes)),
        };
        if !allowed_now {
            return Err(Fatal::sequence(bytes));
        }
        if common.pdu_type.header_length() != Some(common.hlen) {
            return Err(Fatal::field(CommonHeader::HLEN, bytes));
        }
        let whole = self.whole(bytes);
        // A digest that is not there would be waited for.
        let carries = matches!(common.pdu_type, PduType::CAPSULE_CMD | PduType::H2C_DATA);
        if carries && common.flags().contains(PduFlags::HEADER_DIGEST) != self.has_header_digest(bytes) {
            return Err(Fatal::field(CommonHeader::FLAGS, bytes));
        }
        let plen = common.plen.get();
        // At most 132.
        let least = whole as u32;
        let plen_valid = match common.pdu_type {
            PduType::ICREQ => plen == least,
            PduType::H2C_TERM => (least..=least + MAX_TERM_DATA as u32).contains(&plen),
            _ => plen >= least,
        };
        if !plen_valid {
            return Err(Fatal::field(CommonHeader::PLEN, bytes));
        }
        Ok(whole)
    }

    /// Acts on a whole header whose first eight bytes passed [`Connection::check_common`], and with which `taken` bytes
    /// were taken.
    fn header(
        &mut self,
        header: &[u8],
        taken: usize,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<Event>), Fatal> {
        // The casts below cannot fail: the length of the header was checked against its type.
        let malformed = || Fatal::field(CommonHeader::HLEN, header);
        match PduType(header[0]) {
            PduType::CAPSULE_CMD => {
                let capsule = CapsuleCmd::ref_from_bytes(header).map_err(|_| malformed())?;
                let body = self.body(&capsule.header, header)?;
                self.capsule(capsule, body, taken)
            }
            PduType::H2C_DATA => {
                let data = H2cData::ref_from_bytes(header).map_err(|_| malformed())?;
                self.h2c_data(data, header).map(|()| (taken, None))
            }
            PduType::ICREQ => {
                let request = IcReq::ref_from_bytes(header).map_err(|_| malformed())?;
                self.initialize(request, header, out).map(|event| (taken, Some(event)))
            }
            _ => {
                let term = TermReq::ref_from_bytes(header).map_err(|_| malformed())?;
                self.stage = Stage::Terminated;
                let (fes, fei) = (FatalErrorStatus(term.fes.get()), term.fei.get());
                Ok((taken, Some(Event::HostTerminated { fes, fei })))
            }
        }
    }

    fn initialize(&mut self, request: &IcReq, header: &[u8], out: &mut Vec<u8>) -> Result<Event, Fatal> {
        if request.pfv.get() != 0 {
            return Err(Fatal::field(IcReq::PFV, header));
        }
        if request.hpda > MAX_PDA {
            return Err(Fatal::field(IcReq::HPDA, header));
        }
        let digests = DigestFlags::from_bits_truncate(request.dgst);
        if !digests.is_empty() {
            digest::warm_up();
        }
        self.framing = Framing { digests, pda: request.hpda };
        self.initialized = true;
        // CPDA must be 0: the Linux host takes nothing else.
        let response = IcResp::new(0, digests, self.config.max_h2c_data);
        out.extend_from_slice(response.as_bytes());
        Ok(Event::Initialized)
    }

    /// The capsule at the front of `bytes`, if its header needs no closer look: with its data, if there is any, right
    /// behind it, and the digests that were agreed on, of which the header's is right. Also how many bytes it takes with
    /// that digest.
    #[inline]
    fn usual_capsule<'a>(&self, bytes: &'a [u8]) -> Option<(&'a CapsuleCmd, Body, usize)> {
        const LENGTH: u8 = size_of::<CapsuleCmd>() as u8;
        let (capsule, behind) = CapsuleCmd::ref_from_prefix(bytes).ok()?;
        let CommonHeader { pdu_type, flags, hlen, pdo, plen } = capsule.header;
        let digests = self.framing.digests;
        let (mut end, mut expected) = (LENGTH, PduFlags::empty());
        if digests.contains(DigestFlags::HEADER) {
            end += DIGEST_LENGTH as u8;
            expected |= PduFlags::HEADER_DIGEST;
        }
        let mut carried = plen.get().checked_sub(end.into())?;
        let starts = if carried > 0 { end } else { 0 };
        let digest = carried > 0 && digests.contains(DigestFlags::DATA);
        if digest {
            carried = carried.checked_sub(DIGEST_LENGTH as u32)?;
            expected |= PduFlags::DATA_DIGEST;
        }
        let is_usual = pdu_type == PduType::CAPSULE_CMD
            && (flags, hlen, pdo) == (expected.bits(), LENGTH, starts)
            && self.initialized
            && (end == LENGTH || digest::is_followed_by_its_own(capsule.as_bytes(), behind));
        is_usual.then_some((capsule, Body { pad: 0, carried, digest }, end.into()))
    }

    /// Takes a command whose header was found good, and with which `taken` bytes were taken.
    fn capsule(
        &mut self,
        capsule: &CapsuleCmd,
        body: Body,
        taken: usize,
    ) -> Result<(usize, Option<Event>), Fatal> {
        let Body { pad, carried, digest } = body;
        if carried > self.config.in_capsule_data.max(ADMIN_IN_CAPSULE_DATA) {
            self.stage = Stage::Terminated;
            return Err(Fatal::new(FatalErrorStatus::DATA_TRANSFER_LIMIT_EXCEEDED, 0, capsule.as_bytes()));
        }
        let entry = capsule.entry;
        let fabrics = fabrics_type(&entry);
        let data = self
            .may_run(fabrics)
            .and_then(|()| examine(&entry, fabrics, carried, self.in_capsule_limit(fabrics)));
        let (phase, length) = match data {
            Ok(CapsuleData::InCapsule { len }) => (Phase::InCapsule, len),
            Ok(CapsuleData::Transport { len }) => (Phase::Idle, len),
            Ok(CapsuleData::None) | Err(_) => (Phase::Idle, 0),
        };
        let command = Command { phase, length, ..Command::new(entry.cid.get()) };
        // More commands than the queue has entries: the host sent this one before it was allowed to.
        let Some(slot) = self.slots.take(command) else {
            self.stage = Stage::Terminated;
            return Err(Fatal::sequence(capsule.as_bytes()));
        };
        if carried > 0 || digest {
            // Whatever the command is like, its data and digest are passed over.
            let target = (data.is_ok() && carried > 0).then_some(slot);
            self.begin_body(target, pad, carried, digest);
        }
        match data {
            Ok(data) => {
                if fabrics == Some(fctype::CONNECT) {
                    self.connecting = Some(slot);
                }
                Ok((taken, Some(Event::Command { slot, entry, data })))
            }
            Err(status) => Ok((taken, Some(Event::Refused { slot, entry, status }))),
        }
    }

    /// Connect comes first, and once.
    fn may_run(&self, fabrics: Option<u8>) -> Result<(), Status> {
        let in_turn = match fabrics {
            Some(fctype::CONNECT) => self.queue.is_none() && self.connecting.is_none(),
            _ => self.queue.is_some(),
        };
        if in_turn { Ok(()) } else { Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr()) }
    }

    fn in_capsule_limit(&self, fabrics: Option<u8>) -> u32 {
        match self.queue {
            Some(Queue { qid: 1.., .. }) if fabrics.is_none() => self.config.in_capsule_data,
            _ => ADMIN_IN_CAPSULE_DATA,
        }
    }

    fn h2c_data(&mut self, data: &H2cData, header: &[u8]) -> Result<(), Fatal> {
        let Body { pad, carried, digest } = self.body(&data.header, header)?;
        let ttag = data.ttag.get();
        let command = match self.slots.get(ttag) {
            Some(command) if command.phase == Phase::Requested => command,
            _ => return Err(Fatal::field(H2cData::TTAG, header)),
        };
        if data.cccid.get() != command.cid {
            return Err(Fatal::field(H2cData::CCCID, header));
        }
        let out_of_range = |fes| Fatal::new(fes, 0, header);
        let (offset, len) = (data.datao.get(), data.datal.get());
        if len == 0 {
            return Err(Fatal::field(H2cData::DATAL, header));
        }
        if len > self.config.max_h2c_data {
            return Err(out_of_range(FatalErrorStatus::DATA_TRANSFER_LIMIT_EXCEEDED));
        }
        // `received` never exceeds `length`.
        let due = command.length - command.received;
        if offset != command.received || len > due {
            return Err(out_of_range(FatalErrorStatus::DATA_TRANSFER_OUT_OF_RANGE));
        }
        if carried != len {
            return Err(Fatal::field(CommonHeader::PLEN, header));
        }
        if data.header.flags().contains(PduFlags::LAST) != (len == due) {
            return Err(Fatal::field(CommonHeader::FLAGS, header));
        }
        self.begin_body(Some(ttag), pad, len, digest);
        Ok(())
    }

    /// What follows a header whose digest, if it has one, was right.
    fn body(&self, common: &CommonHeader, header: &[u8]) -> Result<Body, Fatal> {
        let end = self.whole(header) as u32;
        let digests = self.framing.digests.contains(DigestFlags::DATA);
        let has_digest = common.flags().contains(PduFlags::DATA_DIGEST);
        let (pdo, plen) = (u32::from(common.pdo), common.plen.get());
        if plen == end {
            // The flag says nothing where there is no data.
            if has_digest && !digests {
                return Err(Fatal::field(CommonHeader::FLAGS, header));
            }
            return if pdo == 0 || pdo == u32::from(common.hlen) || pdo == end {
                Ok(Body { pad: 0, carried: 0, digest: false })
            } else {
                Err(Fatal::field(CommonHeader::PDO, header))
            };
        }
        if has_digest != digests {
            return Err(Fatal::field(CommonHeader::FLAGS, header));
        }
        if pdo < end || pdo % 4 != 0 || pdo >= plen {
            return Err(Fatal::field(CommonHeader::PDO, header));
        }
        let digest = if digests { DIGEST_LENGTH as u32 } else { 0 };
        let Some(carried) = (plen - pdo).checked_sub(digest) else {
            return Err(Fatal::field(CommonHeader::PLEN, header));
        };
        // The difference of two numbers below 256.
        Ok(Body { pad: (pdo - end) as u8, carried, digest: digests })
    }

    #[inline]
    fn begin_body(&mut self, target: Option<Slot>, pad: u8, left: u32, digest: bool) {
        self.stage = Stage::Body { target, pad, left };
        if digest {
            self.data_digest.start();
        }
    }

    /// Takes note that `bytes`, the next of the wanted payload, were put into the command's data. They are looked at
    /// only when the connection has data digests.
    #[inline]
    pub fn placed(&mut self, bytes: &[u8]) -> Option<Event> {
        self.placed_before(bytes, &[]).1
    }

    /// The same when `behind` follows in the stream: the data's digest is taken from there if all of both are here. Also
    /// returns how many bytes of `behind` were taken.
    #[inline]
    pub fn placed_before(&mut self, bytes: &[u8], behind: &[u8]) -> (usize, Option<Event>) {
        debug_assert!(
            matches!(self.want(), Want::Payload { remaining, .. } if bytes.len() <= remaining as usize)
        );
        if self.data_digest.missing() > 0 {
            return self.digested(bytes, behind);
        }
        // More than a PDU can carry is wrong anyway, and cut below.
        (0, self.advance(u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
    }

    /// The way of data with a digest. Not inlined: that of data without stays short.
    #[inline(never)]
    fn digested(&mut self, bytes: &[u8], behind: &[u8]) -> (usize, Option<Event>) {
        if let Stage::Body { target: Some(slot), pad: 0, left } = self.stage
            && left as usize == bytes.len()
            && let Some(right) = self.data_digest.take_whole(bytes, behind)
        {
            self.stage = Stage::Header;
            if let Some(command) = self.slots.get_mut(slot) {
                command.received += left;
                command.damaged |= !right;
            }
            return (DIGEST_LENGTH, self.body_ended(Some(slot)));
        }
        self.data_digest.placed(bytes);
        (0, self.advance(u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
    }

    /// Takes note that the next `n` bytes, which nobody wants, were dropped.
    pub fn discarded(&mut self, n: u32) -> Option<Event> {
        debug_assert!(matches!(self.want(), Want::Discard { remaining } if n <= remaining));
        self.advance(n)
    }

    #[inline]
    fn advance(&mut self, n: u32) -> Option<Event> {
        let Stage::Body { target, pad: 0, left } = self.stage else { return None };
        let n = n.min(left);
        let ends = n == left && self.data_digest.missing() == 0;
        self.stage = if ends { Stage::Header } else { Stage::Body { target, pad: 0, left: left - n } };
        let command = self.slots.get_mut(target?)?;
        command.received += n;
        if ends { self.body_ended(target) } else { None }
    }

    /// Takes the digest behind the data of a PDU.
    fn receive_data_digest(&mut self, target: Option<Slot>, bytes: &[u8]) -> (usize, Option<Event>) {
        let taken = self.data_digest.take(bytes);
        if self.data_digest.missing() > 0 {
            return (taken, None);
        }
        self.stage = Stage::Header;
        let right = self.data_digest.is_right();
        if let Some(command) = target.and_then(|slot| self.slots.get_mut(slot)) {
            // What was dropped was not looked at.
            command.damaged |= !right && !command.discard;
        }
        (taken, self.body_ended(target))
    }

    /// The end of a PDU with data for the command in `target`, which may be the end of the command's data.
    #[inline]
    fn body_ended(&mut self, target: Option<Slot>) -> Option<Event> {
        let slot = target?;
        let command = self.slots.get_mut(slot)?;
        if command.received < command.length {
            return None;
        }
        command.phase = Phase::Idle;
        Some(Event::DataComplete { slot, intact: !command.damaged })
    }

    /// Gives the connection its queue, after Connect was found good and before it is answered.
    ///
    /// `queue_size` is the number of entries (SQSIZE + 1). With `flow_control` off, completions do not report the
    /// submission queue's head, and [`Connection::data_header`] may end a command by itself.
    pub fn establish(&mut self, qid: u16, queue_size: u16, flow_control: bool) {
        debug_assert!(queue_size > 0, "Connect with SQSIZE 0 is refused before");
        let size = queue_size.max(1);
        self.slots.resize(size);
        self.queue = Some(Queue { qid, size, flow_control, sq_head: 0 });
    }

    /// Says that what still arrives of the command's data is not wanted: it is asked for as [`Want::Discard`], and
    /// [`Event::DataComplete`] comes at its end as usual.
    pub fn discard_data(&mut self, slot: Slot) {
        if let Some(command) = self.slots.get_mut(slot) {
            command.discard = true;
        }
    }

    /// Whether the host is in the middle of a PDU that brings data of a command, so that it owes the rest.
    pub fn is_within_data(&self) -> bool {
        matches!(self.stage, Stage::Body { target: Some(_), .. })
    }

    /// Commands that were not answered yet.
    pub fn commands_outstanding(&self) -> usize {
        self.slots.outstanding()
    }

    /// The command that the host gave this identifier, if it was not answered yet. Looks at every slot.
    pub fn slot_of(&self, cid: u16) -> Option<Slot> {
        self.slots.find(cid)
    }

    /// The identifier that the host gave to the command in `slot`, if there is one.
    pub fn cid(&self, slot: Slot) -> Option<u16> {
        self.slots.get(slot).map(|command| command.cid)
    }

    /// Whether ICReq was answered.
    pub const fn is_initialized(&self) -> bool {
        self.initialized
    }

    /// Whether [`Connection::establish`] was called.
    pub const fn is_established(&self) -> bool {
        self.queue.is_some()
    }
}
