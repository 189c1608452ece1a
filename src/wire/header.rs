//! The header of a message: four little-endian words (`struct xsd_sockmsg`, `xen/include/public/io/xs_wire.h`).

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;

/// A message's header, unchecked: any sixteen bytes are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's type; see [`MessageType`].
    pub kind: u32,
    /// Chosen by the client; the reply carries it again.
    pub request_id: u32,
    /// The transaction that the request is part of, 0 for none.
    pub transaction_id: u32,
    /// Bytes of payload.
    pub payload_bytes: u32,
}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or(0);
        Self { kind: next(), request_id: next(), transaction_id: next(), payload_bytes: next() }
    }

    /// Returns whether the message is an event.
    #[must_use]
    pub const fn is_event(&self) -> bool {
        self.kind == MessageType::WatchEvent.to_wire()
    }

    /// Writes a header.
    #[must_use]
    pub fn emit(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (words, _) = bytes.as_chunks_mut::<4>();
        let fields = [self.kind, self.request_id, self.transaction_id, self.payload_bytes];
        for (word, field) in words.iter_mut().zip(fields) {
            *word = field.to_le_bytes();
        }
        bytes
    }
}

/// Declares the message types once: the enum, and the conversion from the wire's number.
macro_rules! message_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The type of a message (`enum xsd_sockmsg_type`). 20 (RESTRICT) was withdrawn and is no longer a type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum MessageType { $($(#[$doc])* $name = $number,)* }

        impl MessageType {
            /// Every type, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the type with this number on the wire.
            #[must_use]
            pub const fn from_wire(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Returns the number on the wire.
            #[must_use]
            pub const fn to_wire(self) -> u32 {
                self as u32
            }
        }
    };
}

message_types! {
    /// A command for the server itself.
    Control = 0,
    /// The names of a node's children.
    Directory = 1,
    /// A node's value.
    Read = 2,
    /// A node's permissions.
    GetPerms = 3,
    /// Requests events about a path.
    Watch = 4,
    /// Withdraws a watch.
    Unwatch = 5,
    /// Opens a transaction.
    TransactionStart = 6,
    /// Commits or aborts a transaction.
    TransactionEnd = 7,
    /// Introduces a new domain.
    Introduce = 8,
    /// Ends a domain's connection.
    Release = 9,
    /// The path of a domain's nodes.
    GetDomainPath = 10,
    /// Sets a node's value.
    Write = 11,
    /// Makes a node.
    Mkdir = 12,
    /// Removes a node and everything below it.
    Rm = 13,
    /// Sets a node's permissions.
    SetPerms = 14,
    /// From the server only: a watch fired.
    WatchEvent = 15,
    /// From the server only: a request failed.
    Error = 16,
    /// Whether a domain is introduced.
    IsDomainIntroduced = 17,
    /// Reports that a shut-down domain runs again.
    Resume = 18,
    /// Lets a domain act for another.
    SetTarget = 19,
    /// Withdraws all watches and transactions of the connection.
    ResetWatches = 21,
    /// A part of the names of a node's children.
    DirectoryPart = 22,
    /// A domain's features.
    GetFeature = 23,
    /// Sets a domain's features.
    SetFeature = 24,
    /// A quota.
    GetQuota = 25,
    /// Sets a quota.
    SetQuota = 26,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_emitting_and_parsing() {
        let header = Header { kind: 11, request_id: 0xdead_beef, transaction_id: 7, payload_bytes: 4096 };
        assert_eq!(Header::parse(&header.emit()), header);
        assert_eq!(header.emit()[..8], [11, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]);
    }

    #[test]
    fn every_type_is_found_by_its_number_and_20_is_none() {
        for kind in MessageType::ALL {
            assert_eq!(MessageType::from_wire(kind.to_wire()), Some(*kind));
        }
        assert_eq!(MessageType::ALL.len(), 26);
        assert_eq!(MessageType::from_wire(20), None);
        assert_eq!(MessageType::from_wire(27), None);
        assert_eq!(MessageType::from_wire(u32::MAX), None);
    }
}
