//! Payloads of requests: valid ones, ones at the edge, and broken ones.

use crate::model::{GUESTS, Model, NOBODY, Scope};
use crate::peers::names;
use crate::quotas::Quotas;
use crate::random::Random;

/// Bytes of the largest payload (`xen/include/public/io/xs_wire.h`).
const PAYLOAD_BYTES: usize = 4096;

/// Bytes of dom0's longest path (`XENSTORE_ABS_PATH_MAX` in `xs_wire.h`).
const ABSOLUTE_PATH_BYTES: usize = 3072;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Invalid spellings of paths.
const NO_PATHS: [&str; 20] = [
    "",
    "//",
    "/a/",
    "a/",
    "/a//b",
    "a//b",
    "/a b",
    "/a.b",
    "/a:b",
    "/a\u{7f}",
    "/a\n",
    "/\u{e9}",
    "/local/domain/",
    "/local/domain/1/",
    "/local/domain/99999/",
    "/local/domain/x/",
    "@",
    "@other",
    "@introduceDomain/a",
    "/*",
];

/// Unusual spellings of valid paths.
const ODD_PATHS: [&str; 8] =
    ["/", "/@a", "/a@b_c-D9", "/tool", "/tool/xenstored", "/local/domain/99999/x", "/local/domain/x", "/local"];

/// Offsets that are no plain number.
const ODD_OFFSETS: [&str; 8] = ["", "x", "12x", " 8", "+1", "-1", "007", "99999999999"];

const TOKENS: [&str; 5] = ["t", "u", "", "a token", "0"];

/// A generator of payloads.
pub struct Payloads {
    quotas: Quotas,
    gives_special_nodes: bool,
    quota_binds_dom0: bool,
}

impl Payloads {
    pub fn new(model: &Model) -> Self {
        let Scope { gives_special_nodes, quota_binds_dom0, .. } = model.scope;
        Self { quotas: model.quotas.clone(), gives_special_nodes, quota_binds_dom0 }
    }

    /// Returns a payload for a request that all domains may make.
    pub fn of(&self, kind: u32, guest: Option<u32>, random: &mut Random) -> Vec<u8> {
        let mut payload = self.well_formed(kind, guest, random);
        if random.chance(3) {
            break_it(kind, &mut payload, random);
        }
        payload.truncate(PAYLOAD_BYTES);
        payload
    }

    fn well_formed(&self, kind: u32, guest: Option<u32>, random: &mut Random) -> Vec<u8> {
        let mut payload = match kind {
            names::TRANSACTION_START | names::RESET_WATCHES => return b"\0".to_vec(),
            names::TRANSACTION_END => return random.weighted(&[(75, "T\0"), (22, "F\0"), (3, "x\0")]).into(),
            names::GET_DOMAIN_PATH => return self.any_domid(random),
            names::GET_PERMS | names::SET_PERMS | names::WATCH | names::UNWATCH if random.chance(6) => {
                random.pick(&["@releaseDomain", "@introduceDomain"]).into()
            }
            _ => self.path(guest, random).into_bytes(),
        };
        payload.push(0);
        match kind {
            names::WRITE => self.append_value(&mut payload, guest, random),
            names::WATCH | names::UNWATCH => {
                payload.extend_from_slice(random.pick(&TOKENS).as_bytes());
                if random.chance(1) {
                    let length = random.pick(&[1000, 2000, 3900, 4080, 4090]);
                    payload.resize(payload.len() + length, b't');
                    payload.truncate(PAYLOAD_BYTES - 1);
                }
                payload.push(0);
            }
            names::DIRECTORY_PART => {
                let bound = random.weighted(&[(5, 1), (3, 8), (2, 6000)]);
                let offset = random.below(bound).to_string();
                let offset = if random.chance(4) { random.pick(&ODD_OFFSETS) } else { &offset };
                payload.extend_from_slice(offset.as_bytes());
                payload.push(0);
            }
            names::SET_PERMS => self.append_permissions(&mut payload, guest, random),
            _ => {}
        }
        payload
    }

    /// Returns a path or an invalid spelling.
    fn path(&self, guest: Option<u32>, random: &mut Random) -> String {
        match random.below(100) {
            0..40 => self.names(1, random),
            40..62 => format!("/shared{}", self.names_below(random)),
            62..90 => {
                let domid = random.between(0, GUESTS + 1);
                format!("/local/domain/{domid}{}", self.names_below(random))
            }
            90..94 => random.pick(&ODD_PATHS).into(),
            94..97 => random.pick(&NO_PATHS).into(),
            97..98 => self.long_path(guest, random),
            _ => format!("/{}", self.names(1, random)),
        }
    }

    fn names(&self, at_least: usize, random: &mut Random) -> String {
        let count = random.weighted(&[(5, at_least), (4, at_least + 1), (1, at_least + 2), (1, at_least + 4)]);
        (0..count).map(|_| random.pick(&NAMES)).collect::<Vec<_>>().join("/")
    }

    fn names_below(&self, random: &mut Random) -> String {
        let names = self.names(0, random);
        if names.is_empty() { names } else { format!("/{names}") }
    }

    /// Returns a path of about the longest allowed length.
    fn long_path(&self, guest: Option<u32>, random: &mut Random) -> String {
        let quota = self.quotas.path_bytes;
        let (limit, over, prefix) = match guest {
            Some(_) => (quota, 2, 0),
            // Only one server accepts longer paths, after which both restart. There are few of them.
            None if self.quota_binds_dom0 => (quota, if quota == 2048 { 2 } else { 0 }, 0),
            None => (ABSOLUTE_PATH_BYTES, if random.chance(10) { 2 } else { 0 }, "/local/domain/0/".len()),
        };
        let length = random.between(limit - 2, limit + over);
        let fill = |length: usize| if length.is_multiple_of(2) { "x".repeat(length) } else { "y".repeat(length) };
        match random.below(3) {
            0 => fill(length - prefix),
            1 => format!("/{}", fill(length - 1)),
            _ => format!("/local/domain/{}/{}", random.between(1, GUESTS), fill(length - prefix)),
        }
    }

    fn append_value(&self, payload: &mut Vec<u8>, guest: Option<u32>, random: &mut Random) {
        let length = match random.below(100) {
            0..92 => random.below(12),
            92..98 => (self.quotas.node_bytes + 3).saturating_sub(16 + 8 * random.between(1, 3) + random.below(6)),
            98..99 if guest.is_none() => PAYLOAD_BYTES,
            _ => random.below(2500),
        };
        let length = length.min(PAYLOAD_BYTES.saturating_sub(payload.len()));
        let byte = random.pick(b"vw\0\xff");
        payload.resize(payload.len() + length, byte);
    }

    fn append_permissions(&self, payload: &mut Vec<u8>, guest: Option<u32>, random: &mut Random) {
        let limit = self.quotas.permissions;
        let any = random.between(1, limit);
        let count = random.weighted(&[(60, 1), (30, any), (5, limit), (5, limit + 1)]);
        let path = payload.clone();
        for entry in 0..count {
            let letter = random.pick(b"nrwb");
            let domid = match guest {
                // The root remains dom0's: it cannot be removed with its owner.
                None if entry == 0 && path == b"/\0" => 0,
                None if entry == 0 && path.starts_with(b"@") && !self.gives_special_nodes => 0,
                Some(domid) if entry == 0 && random.chance(85) => domid,
                _ => self.domid(random),
            };
            payload.push(letter);
            payload.extend_from_slice(format!("{domid}\0").as_bytes());
        }
        if random.chance(2) {
            payload.extend_from_slice(
                random.pick(&["x1\0", "r\0", "\0", "rr1\0", "r1x\0", "R1\0", "r1,r2\0", "trail"]).as_bytes(),
            );
        }
    }

    /// Returns a domid, mostly one that exists or may exist.
    fn domid(&self, random: &mut Random) -> u32 {
        match random.below(20) {
            0 => random.pick(&NOBODY),
            1..4 => 0,
            _ => random.between(1, GUESTS + 1) as u32,
        }
    }

    /// Returns a payload for a request that takes one domid and changes nothing.
    pub fn any_domid(&self, random: &mut Random) -> Vec<u8> {
        if random.chance(15) {
            let odd =
                ["", "\0", "x\0", "1x\0", "-1\0", "65535\0", "65536\0", "32752\0", "01\0", "1\0\0", "1", "1\x002\0"];
            return random.pick(&odd).into();
        }
        format!("{}\0", self.domid(random)).into_bytes()
    }

    /// Returns a payload for a request about a domain, which is refused.
    pub fn bad_domain_request(&self, kind: u32, random: &mut Random) -> Vec<u8> {
        let nobody = random.pick(&NOBODY);
        let wrong = match kind {
            names::INTRODUCE => [
                "",
                "\0",
                "1\0",
                "1\x001\0",
                "1\x001\x000\0",
                "1\x001\0x\0",
                "1\x001\x001",
                &format!("{nobody}\x001\x001\0"),
            ]
            .map(str::to_owned)
            .to_vec(),
            names::SET_TARGET => ["", "\0", "1\0", "1\x002", &format!("{nobody}\x001\0"), &format!("1\0{nobody}\0")]
                .map(str::to_owned)
                .to_vec(),
            _ => ["", "\0", "0\0", "x\0", "1", "1\0\0", "1\x002\0", &format!("{nobody}\0")].map(str::to_owned).to_vec(),
        };
        wrong[random.below(wrong.len())].clone().into_bytes()
    }

    /// Returns a payload for CONTROL: commands that both servers know, and unknown ones.
    pub fn control(&self, random: &mut Random) -> Vec<u8> {
        let known = [
            "check\0",
            "check\0x\0",
            "print\0a line\0",
            "print\0",
            "print\0a\0b\0",
            "",
            "check",
            "\0",
            "nonsense\0",
            "help\0x\0",
            "log\0off\0",
            "log\0on\0",
            "log\0nonsense\0",
            "log\0on\0off\0",
            "logfile\0",
            "memreport\0a\0b\0",
            "quota\0999\0",
            "quota\0set\0nodes\0",
            "quota\0set\0nodes\x000\0",
            "quota\0set\0nonsense\x001\0",
            "quota-soft\0set\0nodes\x001\0",
            "quota-soft\0nonsense\0",
        ];
        random.pick(&known).into()
    }
}

/// Breaks the form of a payload.
fn break_it(kind: u32, payload: &mut Vec<u8>, random: &mut Random) {
    match random.below(5) {
        0 => payload.clear(),
        1 => {
            payload.pop();
        }
        2 => payload.push(0),
        3 => {
            let at = random.below(payload.len() + 1);
            // The C server accepts numbers with leading spaces.
            let bytes: &[u8] = if kind == names::SET_PERMS { b"\0/@\xff" } else { b"\0 /@\xff" };
            payload.insert(at, random.pick(bytes));
        }
        _ => payload.extend_from_slice(b"rest"),
    }
}
