//! The Namespace Identification Descriptor list, CNS 03h (NVMe Base 2.0, 5.17.2.3).

use core::fmt;

use super::IDENTIFY_LENGTH;

/// Type, length and two reserved bytes.
const HEADER: usize = 4;

/// One identifier of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceIdDescriptor<'a> {
    /// Namespace identifier type: see [`Self::EUI64`] and its siblings.
    pub nidt: u8,
    /// The identifier. Its length is the descriptor's NIDL.
    pub nid: &'a [u8],
}

impl<'a> NamespaceIdDescriptor<'a> {
    /// Type: IEEE extended unique identifier, 8 bytes.
    pub const EUI64: u8 = 1;
    /// Type: namespace globally unique identifier, 16 bytes.
    pub const NGUID: u8 = 2;
    /// Type: UUID, 16 bytes.
    pub const UUID: u8 = 3;
    /// Type: command set identifier, 1 byte.
    pub const CSI: u8 = 4;

    /// Namespace identifier length in bytes.
    #[must_use]
    pub const fn nidl(&self) -> usize {
        self.nid.len()
    }

    /// The length that the specification gives to this type; `None` for types it does not know.
    #[must_use]
    pub const fn expected_length(&self) -> Option<usize> {
        match self.nidt {
            Self::EUI64 => Some(8),
            Self::NGUID | Self::UUID => Some(16),
            Self::CSI => Some(1),
            _ => None,
        }
    }

    /// Goes through the descriptors in what Identify returned.
    ///
    /// The list ends at a descriptor of length 0, at the end of the buffer, or at a descriptor that would reach
    /// beyond it. Descriptors of unknown type or unexpected length are returned like others.
    #[must_use]
    pub const fn parse(list: &'a [u8]) -> NamespaceIdDescriptors<'a> {
        NamespaceIdDescriptors { rest: list }
    }
}

/// The descriptors of a list; made by [`NamespaceIdDescriptor::parse`].
#[derive(Clone, Debug)]
pub struct NamespaceIdDescriptors<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for NamespaceIdDescriptors<'a> {
    type Item = NamespaceIdDescriptor<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&[nidt, nidl, _, _], rest) = self.rest.split_first_chunk::<HEADER>()?;
        if nidl == 0 {
            self.rest = &[];
            return None;
        }
        let Some((nid, rest)) = rest.split_at_checked(usize::from(nidl)) else {
            self.rest = &[];
            return None;
        };
        self.rest = rest;
        Some(NamespaceIdDescriptor { nidt, nid })
    }
}

impl core::iter::FusedIterator for NamespaceIdDescriptors<'_> {}

/// Puts a list of descriptors together.
#[derive(Clone)]
pub struct NamespaceIdDescriptorBuilder {
    list: [u8; IDENTIFY_LENGTH],
    length: usize,
}

impl NamespaceIdDescriptorBuilder {
    /// A list without descriptors.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: [0; IDENTIFY_LENGTH], length: 0 }
    }

    /// Adds an identifier of type `nidt`. An empty one would end the list and is left out.
    ///
    /// # Errors
    /// When the identifier is longer than 255 bytes or does not fit any more; the list stays as it was.
    pub fn push(&mut self, nidt: u8, nid: &[u8]) -> Result<&mut Self, DescriptorListFull> {
        if nid.is_empty() {
            return Ok(self);
        }
        let nidl = u8::try_from(nid.len()).map_err(|_| DescriptorListFull)?;
        let end = self.length + HEADER + nid.len();
        let descriptor = self.list.get_mut(self.length..end).ok_or(DescriptorListFull)?;
        let (header, identifier) = descriptor.split_at_mut(HEADER);
        header.copy_from_slice(&[nidt, nidl, 0, 0]);
        identifier.copy_from_slice(nid);
        self.length = end;
        Ok(self)
    }

    /// The list as Identify returns it, with zeroes after the last descriptor.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; IDENTIFY_LENGTH] {
        &self.list
    }
}

impl Default for NamespaceIdDescriptorBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for NamespaceIdDescriptorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(NamespaceIdDescriptor::parse(&self.list)).finish()
    }
}

/// A descriptor did not fit into the list of 4096 bytes, or its identifier was longer than 255 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorListFull;

impl fmt::Display for DescriptorListFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the identifier does not fit into the namespace identification descriptor list")
    }
}

impl std::error::Error for DescriptorListFull {}

#[cfg(test)]
mod tests {
    use super::*;

    type Descriptor<'a> = NamespaceIdDescriptor<'a>;

    #[test]
    fn what_is_pushed_is_parsed() {
        let mut builder = NamespaceIdDescriptorBuilder::new();
        builder.push(Descriptor::NGUID, &[7; 16]).unwrap().push(Descriptor::CSI, &[0]).unwrap();
        assert_eq!(builder.as_bytes()[..4], [2, 16, 0, 0]);
        let found: Vec<_> = Descriptor::parse(builder.as_bytes()).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].nidt, found[0].nidl(), found[0].nid), (Descriptor::NGUID, 16, &[7; 16][..]));
        assert_eq!((found[1].nidt, found[1].nid), (Descriptor::CSI, &[0][..]));
        assert_eq!(found[0].expected_length(), Some(16));
    }

    #[test]
    fn a_descriptor_that_reaches_beyond_the_buffer_ends_the_list() {
        let list = [1, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 16, 0, 0, 9];
        let mut descriptors = Descriptor::parse(&list);
        assert_eq!(descriptors.next().map(|found| found.nidt), Some(Descriptor::EUI64));
        assert_eq!(descriptors.next(), None);
        assert_eq!(descriptors.next(), None);
        assert_eq!(Descriptor::parse(&[1, 8]).count(), 0);
    }

    #[test]
    fn a_length_of_zero_ends_the_list() {
        assert_eq!(Descriptor::parse(&[3, 0, 0, 0, 4, 1, 0, 0, 2]).count(), 0);
    }

    #[test]
    fn a_list_of_4096_bytes_can_be_filled_to_the_last_and_not_further() {
        let mut builder = NamespaceIdDescriptorBuilder::new();
        for _ in 0..15 {
            builder.push(9, &[1; 255]).unwrap();
        }
        // 15 * 259 = 3885 bytes so far.
        builder.push(9, &[2; 4096 - 3885 - 4]).unwrap();
        assert_eq!(builder.push(4, &[0]).err(), Some(DescriptorListFull));
        assert_eq!(builder.push(4, &[0; 256]).err(), Some(DescriptorListFull));
        assert_eq!(Descriptor::parse(builder.as_bytes()).count(), 16);
    }
}
