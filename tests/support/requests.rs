//! Random requests of all types: their types, paths, permissions and other arguments. Most of them can succeed; the
//! others are wrong in one way.

use xenstore::wire::header::MessageType as T;

use super::random::Random;

/// The weights of the types. Types that change the connected domains are not here: see [`Requests::rare`].
const KINDS: [(usize, T); 19] = [
    (2, T::Read),
    (5, T::Write),
    (1, T::Mkdir),
    (2, T::Rm),
    (1, T::Directory),
    (1, T::DirectoryPart),
    (1, T::GetPerms),
    (2, T::SetPerms),
    (3, T::Watch),
    (1, T::Unwatch),
    (2, T::TransactionStart),
    (2, T::TransactionEnd),
    (1, T::GetDomainPath),
    (1, T::IsDomainIntroduced),
    (1, T::Control),
    (1, T::GetFeature),
    (1, T::SetFeature),
    (1, T::GetQuota),
    (1, T::Error),
];

/// The names of nodes: few, so that requests meet.
pub const NAMES: [&str; 4] = ["a", "b", "data", "x-y"];

/// Quotas for requests that name one.
const QUOTAS: [&str; 7] = ["nodes", "watches", "transactions", "outstanding", "memory", "soft-memory", "node-size"];

/// The differences between the tests that make random requests.
pub struct Requests {
    /// The domids of guests are 1 to this number.
    pub guests: usize,
    /// One request in so many is of a type in `rare`.
    pub rare_once_in: usize,
    /// Further types, with how often each is chosen among them.
    pub rare: &'static [(usize, T)],
}

impl Requests {
    /// Returns a request of this domain, or `None` for a request that would remove nodes that all tests need.
    pub fn request(&self, random: &mut Random, domid: u16) -> Option<(T, Vec<u8>)> {
        let mut kind = random.weighted(&KINDS);
        if random.once_in(self.rare_once_in) {
            kind = random.weighted(self.rare);
        }
        let payload = self.payload(random, domid, kind);
        let is_needed = matches!(&payload[..], b"/local/domain\0" | b"/shared\0");
        (kind != T::Rm || !is_needed || domid != 0).then_some((kind, payload))
    }

    /// Returns a path, most often of a node that can exist: below the domain's home, a guest's home or `/shared`.
    pub fn path(random: &mut Random) -> String {
        let top = match random.below(14) {
            0..5 => String::new(),
            5..8 => "/shared/".into(),
            8..11 => format!("/local/domain/{}/", random.below(6)),
            11 => {
                let odd =
                    ["/", "/local/domain", "@releaseDomain", "@introduceDomain", "@releaseDomain/2", "/tool", "//"];
                return (*random.one_of(&odd)).into();
            }
            12 => return (*random.one_of(&["/shared", "/local/domain/1", "", "/a.b", "shared/"])).into(),
            _ => "/".into(),
        };
        let names: Vec<&str> = (0..=random.below(3)).map(|_| *random.one_of(&NAMES)).collect();
        top + &names.join("/")
    }

    /// Returns the entries of a SET_PERMS: known and unknown domains, and the domids with a meaning of their own.
    pub fn permissions(&self, random: &mut Random) -> String {
        let count = if random.once_in(20) { 6 } else { 1 + random.below(4) };
        let owner = if random.once_in(3) { random.below(self.guests + 2) } else { 0 };
        let entry = |at| {
            let domid = match random.below(14) {
                _ if at == 0 && owner == 0 => 0,
                0 if at > 0 => 0x7ff5,
                1 if at > 0 => 0x7ff4,
                domid => domid % (self.guests + 2),
            };
            format!("{}{domid}\0", random.one_of(&["n", "r", "w", "b"]))
        };
        (0..count).map(entry).collect()
    }

    /// Returns the payload of a request of this type by this domain.
    pub fn payload(&self, random: &mut Random, domid: u16, kind: T) -> Vec<u8> {
        let path = Self::path(random);
        // Two numbers that no guest has, and in some places a third.
        let (known, unknown) = (self.guests + 2, self.guests + 3);
        let text = match kind {
            T::Write => {
                let bytes = *random.one_of(&[0, 3, 20, 60, 60, 300, 1500]);
                format!("{path}\0{}", "v".repeat(bytes))
            }
            T::SetPerms if domid != 0 && !random.once_in(4) => {
                // The domain's own nodes.
                let permissions = self.permissions(random);
                let others = permissions.split_once('\0').map_or("", |split| split.1);
                format!("{path}\0{}{domid}\0{others}", random.one_of(&["n", "r", "b"]))
            }
            T::SetPerms => format!("{path}\0{}", self.permissions(random)),
            T::Watch if random.once_in(3) => format!("{path}\0t{}\0{}\0", random.below(3), random.below(3)),
            T::Watch if random.once_in(8) => "/shared\0t0\0".into(),
            T::Watch | T::Unwatch => format!("{path}\0t{}\0", random.below(3)),
            T::GetFeature if random.once_in(2) => String::new(),
            T::GetFeature => format!("{}\0", random.below(unknown)),
            T::SetFeature => format!("{}\0{}\0", random.below(known), random.below(17)),
            T::GetQuota => match random.below(4) {
                0 => String::new(),
                1 => "nodes\0".into(),
                _ => format!("{}\0watches\0", random.below(unknown)),
            },
            T::SetQuota => {
                let (quota, value) = (random.one_of(&QUOTAS), random.one_of(&[0, 3, 5, 20, 128, 1000, 5000]));
                match random.below(known) {
                    0 => format!("{quota}\0{value}\0"),
                    domid => format!("{domid}\0{quota}\0{value}\0"),
                }
            }
            T::DirectoryPart => format!("{path}\0{}\0", random.below(20)),
            T::TransactionStart | T::ResetWatches => "\0".into(),
            T::TransactionEnd => (*random.one_of(&["T\0", "T\0", "T\0", "T\0", "F\0", "T"])).into(),
            T::Control => {
                let commands = ["check\0", "memreport\0", "quota\0", "quota\x001\0", "quota\0max\0", "help\0", "no\0"];
                (*random.one_of(&commands)).into()
            }
            T::GetDomainPath | T::IsDomainIntroduced | T::Resume | T::Release => format!("{}\0", random.below(unknown)),
            T::Introduce => format!("{}\x001\0{}\0", 1 + random.below(self.guests + 1), random.below(4)),
            T::SetTarget => format!("{}\0{}\0", random.below(known), random.below(known)),
            _ => format!("{path}\0"),
        };
        text.into_bytes()
    }
}
