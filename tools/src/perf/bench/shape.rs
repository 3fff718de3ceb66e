//! The shapes of load that a benchmark goes through.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use serde::{Serialize, Serializer};

use crate::perf::units::{binary_size, parse_size};
use crate::perf::workload::Pattern;

/// One shape of load, written `PATTERN,SIZE,DEPTH,CONNECTIONS`, with `,poll` when floor and targets spin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) pattern: Pattern,
    /// Bytes of a command.
    pub(crate) block_size: u64,
    /// Commands outstanding on each connection.
    pub(crate) depth: u16,
    pub(crate) connections: u16,
    /// Floor and targets spin: the shortest way there and back.
    pub(crate) poll: bool,
}

impl Shape {
    /// Those that a benchmark goes through when nothing is said.
    pub(crate) fn usual() -> Vec<Self> {
        let shape = |pattern, block_size: u64, depth, connections| Self {
            pattern,
            block_size: block_size << 10,
            depth,
            connections,
            poll: false,
        };
        let (read, write) = (Pattern::Randread, Pattern::Randwrite);
        vec![
            shape(read, 4, 1, 1),
            Self { poll: true, ..shape(read, 4, 1, 1) },
            shape(read, 4, 32, 1),
            shape(read, 4, 128, 1),
            shape(write, 4, 1, 1),
            shape(write, 4, 32, 1),
            shape(write, 4, 128, 1),
            shape(read, 128, 16, 1),
            shape(write, 128, 16, 1),
            shape(read, 4, 8, 1),
            shape(read, 4, 8, 16),
            shape(read, 4, 8, 256),
            shape(read, 4, 8, 1024),
        ]
    }
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let form = "a shape is written PATTERN,SIZE,DEPTH,CONNECTIONS, as in randread,4k,32,1 or randread,4k,1,1,poll";
        let fields: Vec<&str> = text.split(',').collect();
        let (&[pattern, block_size, depth, connections], rest) = fields.split_first_chunk().context(form)?;
        let poll = match rest {
            [] => false,
            ["poll"] => true,
            _ => bail!(form),
        };
        let pattern = match pattern {
            "randread" => Pattern::Randread,
            "randwrite" => Pattern::Randwrite,
            "read" => Pattern::Read,
            "write" => Pattern::Write,
            _ => bail!("{form}; PATTERN is read, write, randread or randwrite"),
        };
        let block_size = parse_size(block_size).map_err(anyhow::Error::msg)?;
        let shape = Self {
            pattern,
            block_size,
            depth: depth.parse().context(form)?,
            connections: connections.parse().context(form)?,
            poll,
        };
        ensure!(shape.depth > 0 && shape.connections > 0 && block_size > 0, form);
        Ok(shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, block_size, depth, connections, poll } = *self;
        write!(f, "{} {}, depth {depth}", pattern.name(), binary_size(block_size))?;
        if connections > 1 {
            write!(f, ", {connections} connections")?;
        }
        if poll { f.write_str(", polling") } else { Ok(()) }
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_shown() {
        let shape: Shape = "randread,4k,1,1,poll".parse().unwrap();
        assert_eq!(shape, Shape::usual()[1]);
        assert_eq!(shape.to_string(), "randread 4 KiB, depth 1, polling");
        let shape: Shape = "write,128KiB,16,256".parse().unwrap();
        assert_eq!(shape.to_string(), "write 128 KiB, depth 16, 256 connections");
        for wrong in ["", "read", "read,4k,1", "read,4k,0,1", "rw,4k,1,1", "read,4k,1,1,spin", "read,4kB,1,1"]
        {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }
}
