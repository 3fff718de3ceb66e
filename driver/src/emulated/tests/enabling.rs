//! Enabling, disabling and shutting down.

use gangway_spec::Status;
use gangway_spec::registers::{
    self, ControllerCapabilities, ControllerConfiguration, ControllerStatus, Version,
};

use super::*;
use crate::function::FunctionError;

#[test]
fn the_capabilities_say_what_the_options_asked_for() {
    let host = Host::disabled("depth=64,stride=3");
    let cap = ControllerCapabilities::from_bits(host.function.read_register64(registers::CAP).unwrap());
    assert_eq!((cap.mqes(), cap.dstrd(), cap.mpsmin(), cap.mpsmax()), (63, 3, 0, 0));
    assert!(cap.cqr() && cap.to() > 0);
    assert_eq!(cap.css(), ControllerCapabilities::CSS_NVM);
    assert_eq!(host.function.read_register32(registers::VS).unwrap(), u32::from(Version::V1_4));
    assert!(!host.status().rdy());
}

#[test]
fn a_controller_becomes_ready_and_can_be_reset() {
    let mut host = Host::new("");
    assert!(host.identify(1, 0).is_ok());
    host.configure(ControllerConfiguration::new());
    assert_eq!(host.status().into_bits(), 0);
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn each_wrong_configuration_is_fatal_until_reset() {
    let good = good_configuration();
    for wrong in
        [good.with_mps(1), good.with_css(6), good.with_css(7), good.with_ams(1), good.with_crime(true)]
    {
        let host = Host::disabled("");
        host.configure(wrong);
        assert!(host.status().cfs() && !host.status().rdy(), "{wrong:?}");
        assert_eq!(host.probe.violations(), 1);
        host.configure(ControllerConfiguration::new());
        assert!(!host.status().cfs());
        host.configure(good);
        assert!(host.status().rdy());
    }
}

#[test]
fn admin_queues_must_have_a_size_and_be_in_reach() {
    for (register, value) in [
        (registers::AQA, 0),
        (registers::AQA, 15),
        (registers::AQA, 15 << 16),
        (registers::AQA, 0x1000_000f),
        (registers::ASQ, 0x1_0010),
        (registers::ASQ, 0),
        (registers::ACQ, 0x1_0010),
        (registers::ACQ, 0x7777_0000),
    ] {
        let host = Host::disabled("");
        host.function.write_register32(register, value).unwrap();
        host.configure(good_configuration());
        assert!(host.status().cfs(), "register {register:#x} = {value:#x}");
    }
}

#[test]
fn admin_queues_in_memory_of_the_wrong_direction_are_fatal() {
    let host = Host::disabled("");
    host.function.write_register64(registers::ASQ, host.admin.cq.iova()).unwrap();
    host.configure(good_configuration());
    assert!(host.status().cfs());
}

#[test]
fn changing_the_page_size_while_enabled_is_fatal() {
    let host = Host::new("");
    host.configure(good_configuration().with_mps(1));
    assert!(host.status().cfs());
}

#[test]
fn moving_the_admin_queues_while_enabled_is_fatal() {
    for register in [registers::AQA, registers::ASQ, registers::ASQ + 4, registers::ACQ, registers::ACQ + 4] {
        let host = Host::new("");
        let before = host.function.read_register32(register).unwrap();
        host.function.write_register32(register, !before).unwrap();
        assert!(host.status().cfs(), "register {register:#x}");
        assert_eq!(host.function.read_register32(register).unwrap(), before);
        host.configure(ControllerConfiguration::new());
        host.function.write_register32(register, before).unwrap();
        host.configure(good_configuration());
        assert!(host.status().rdy() && !host.status().cfs(), "register {register:#x}");
    }
}

#[test]
fn a_shutdown_completes_and_wants_a_reset_before_the_next_start() {
    let mut host = Host::new("");
    host.configure(good_configuration().with_shn(ControllerConfiguration::SHN_NORMAL));
    assert_eq!(host.status().shst(), ControllerStatus::SHST_COMPLETE);
    host.admin.submit(&SubmissionQueueEntry::new(opcode::admin::IDENTIFY));
    assert!(host.admin.poll().is_none(), "a controller that was shut down answers nothing");
    host.configure(ControllerConfiguration::new());
    assert_eq!(host.status().shst(), ControllerStatus::SHST_NORMAL);
    host.configure(good_configuration());
    assert!(host.status().rdy());
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn nothing_is_touched_after_a_reset() {
    let mut host = Host::new("");
    let mut queue = host.create_queue(1);
    host.configure(ControllerConfiguration::new());
    let before = (host.admin.cq.to_vec(), queue.cq.to_vec());
    queue.submit(&io_command(opcode::nvm::FLUSH, 0, 1));
    host.admin.submit(&SubmissionQueueEntry::new(opcode::admin::IDENTIFY));
    assert!(queue.poll().is_none() && host.admin.poll().is_none());
    assert_eq!(before, (host.admin.cq.to_vec(), queue.cq.to_vec()));
}

#[test]
fn a_reset_forgets_queues_and_doorbells() {
    let mut host = Host::new("");
    let queue = host.create_queue(1);
    host.configure(ControllerConfiguration::new());
    drop(queue);
    host.admin = Queue { tail: 0, head: 0, phase: true, ..host.admin };
    host.admin.cq.fill(0);
    host.configure(good_configuration());
    let mut queue = host.create_queue(1);
    assert_eq!(queue.run(&io_command(opcode::nvm::FLUSH, 0, 1)).status(), Status::SUCCESS);
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn registers_that_are_not_there_are_refused() {
    let host = Host::disabled("queues=2");
    // Three queue pairs, the admin one included, of two doorbells each.
    let end = 0x1000 + 3 * 2 * 4;
    for offset in [end, end + 4, u32::MAX - 3] {
        assert!(matches!(host.function.read_register32(offset), Err(FunctionError::OutOfBounds { .. })));
        assert!(matches!(host.function.doorbell(offset), Err(FunctionError::OutOfBounds { .. })));
    }
    assert!(matches!(host.function.read_register32(2), Err(FunctionError::Misaligned { .. })));
    assert!(matches!(host.function.doorbell(0x14), Err(FunctionError::OutOfBounds { .. })));
    assert!(host.function.doorbell(end - 4).is_ok());
}

#[test]
fn a_doorbell_that_is_written_as_a_register_rings() {
    let mut host = Host::new("");
    host.admin.put(&SubmissionQueueEntry::new(0xff));
    host.function.write_register32(registers::DOORBELLS, 1).unwrap();
    assert!(host.admin.poll().unwrap().status().is(Status::INVALID_OPCODE));
}

#[test]
fn doorbells_follow_the_stride() {
    let mut host = Host::new("stride=4");
    let mut queue = host.create_queue(3);
    assert_eq!(queue.run(&io_command(opcode::nvm::FLUSH, 0, 1)).status(), Status::SUCCESS);
}

#[test]
fn a_subsystem_reset_is_as_power_on_and_is_told_of_until_it_is_acknowledged() {
    let mut host = Host::new("");
    let cap = ControllerCapabilities::from_bits(host.function.read_register64(registers::CAP).unwrap());
    assert!(cap.nssrs());
    host.function.write_register32(registers::NSSR, 0x1234_5678).unwrap();
    assert!(host.identify(1, 0).is_ok(), "only one value resets");
    host.function.write_register32(registers::NSSR, registers::NSSR_RESET).unwrap();
    assert_eq!(host.status(), ControllerStatus::new().with_nssro(true));
    for register in [registers::CC, registers::AQA, registers::ASQ, registers::ACQ] {
        assert_eq!(host.function.read_register32(register).unwrap(), 0);
    }
    host.start_again();
    assert!(host.status().rdy() && host.status().nssro());
    host.function
        .write_register32(registers::CSTS, ControllerStatus::new().with_nssro(true).into_bits())
        .unwrap();
    assert!(host.status().rdy() && !host.status().nssro());
    assert!(host.identify(1, 0).is_ok());
}

#[test]
fn a_drive_says_what_page_size_and_time_it_was_told_to_say() {
    let host = Host::disabled("page=8192,ready-timeout=1500ms,crto=2s");
    let cap = ControllerCapabilities::from_bits(host.function.read_register64(registers::CAP).unwrap());
    assert_eq!((cap.mpsmin(), cap.to(), cap.crms()), (1, 3, 1));
    assert_eq!(host.function.read_register32(registers::CRTO).unwrap(), 4);
    host.configure(good_configuration());
    assert!(host.status().cfs(), "a driver that does not look at MPSMIN is found out");
}
