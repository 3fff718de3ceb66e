//! A target in a process of its own, for tests that measure it from outside: `gangway-test-target adaptive|never [DRIVE]`,
//! where `DRIVE` are options of an emulated drive, such as `size=64MiB,fault=cfs:nth=1000` [default: one that moves no data].
//!
//! It says on standard output where it listens, answers each line of its standard input with what it has allocated, and ends
//! when its standard input does.

use std::io;

use gangway_bridge::{Poll, ReactorConfig};
use gangway_driver::emulated::{Backing, EmulatedConfig};
use gangway_tests::heap::{Allocated, Counting};
use gangway_tests::{Setup, TestTarget};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    // As `gangway` does.
    gangway_driver::heap::keep_large_pieces_apart();
    let poll = match std::env::args().nth(1).as_deref() {
        Some("never") => Poll::Never,
        Some("adaptive") => Poll::Adaptive,
        _ => panic!("usage: gangway-test-target adaptive|never [DRIVE]"),
    };
    let null = || EmulatedConfig { size: 64 << 20, backing: Backing::Null, ..EmulatedConfig::default() };
    let drive = std::env::args().nth(2).map_or_else(null, |text| text.parse().expect("options of a drive"));
    let target = TestTarget::with(Setup {
        drives: vec![drive],
        memory: ReactorConfig { poll, ..ReactorConfig::default() },
        max_io_queues: 64,
        ..Setup::default()
    });
    println!("{}", target.address);
    // Whatever ends it: whoever started this has no use for it any more.
    while matches!(io::stdin().read_line(&mut String::new()), Ok(1..)) {
        println!("{}", Allocated::now());
    }
    target.shutdown();
}
