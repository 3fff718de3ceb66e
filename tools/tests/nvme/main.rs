//! The local tools, as people run them: the program itself, on emulated drives and on what `gangway serve` exports.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod data;
mod ending;
mod inspect;
mod manage;
mod support;
