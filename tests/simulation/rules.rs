//! The reply to each request for nodes, and its changes: the rules of the protocol, written down again as plainly as
//! possible.

use std::rc::Rc;

use xenstore::wire::header::MessageType as T;

use crate::nodes::{ANY, Entry, Node, Permissions, Refused, View, child, name, parent};

/// Quotas in the order of the model's lists.
pub const QUOTAS: [&str; 10] = [
    "nodes",
    "watches",
    "outstanding",
    "memory",
    "soft-memory",
    "transactions",
    "transaction-nodes",
    "node-permissions",
    "path-max",
    "node-size",
];
pub const DEFAULTS: [u32; 10] = [1000, 128, 20, 2_621_440, 2_097_152, 10, 1024, 5, 2048, 2048];

/// Returns the position of a quota in the lists.
pub fn quota(name: &str) -> usize {
    QUOTAS.iter().position(|known| *known == name).expect("a known quota")
}

/// A requester with its limits.
#[derive(Clone, Debug)]
pub struct Requester {
    pub domid: u16,
    pub is_privileged: bool,
    /// The domain whose rights the requester has too.
    pub target: Option<u16>,
    pub quotas: [u32; 10],
    /// The number of nodes that it owns, including those of the request's transaction.
    pub nodes: i64,
    /// Whether an entry for all domains counts if it makes one.
    pub may_name_all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub owner: bool,
}

impl Access {
    const ALL: Self = Self { read: true, write: true, owner: true };
}

impl Requester {
    pub fn access(&self, permissions: &Permissions) -> Access {
        let is_me = |entry: &Entry| entry.domid == self.domid || Some(entry.domid) == self.target || entry.domid == ANY;
        if self.is_privileged || is_me(&permissions[0]) {
            return Access::ALL;
        }
        let entry = permissions[1..].iter().find(|entry| entry.counts && is_me(entry)).unwrap_or(&permissions[0]);
        Access { read: "rb".contains(entry.letter), write: "wb".contains(entry.letter), owner: false }
    }

    pub fn may_read(&self, permissions: &Permissions) -> bool {
        self.access(permissions).read
    }

    /// Returns how many paths its transaction may access.
    pub fn paths_in_transaction(&self) -> usize {
        let limit = self.quotas[quota("transaction-nodes")] as usize;
        if self.is_privileged || limit == 0 { usize::MAX } else { limit }
    }

    /// Returns whether `value` exceeds its limit.
    pub fn exceeds(&self, what: &str, value: usize) -> bool {
        let limit = self.quotas[quota(what)];
        !self.is_privileged && limit != 0 && value > limit as usize
    }
}

/// The circumstances besides the nodes.
pub trait Surroundings {
    /// Returns whether entries for that domain count.
    fn exists(&self, domid: u16) -> bool;
}

/// The right that a request needs.
#[derive(Clone, Copy)]
enum Want {
    Read,
    Write,
    Own,
}

impl Want {
    fn is_in(self, access: Access) -> bool {
        match self {
            Self::Read => access.read,
            Self::Write => access.write,
            Self::Own => access.write && access.owner,
        }
    }

    /// Returns whether a requester has any of the right.
    fn is_partly_in(self, access: Access) -> bool {
        match self {
            Self::Read => access.read,
            Self::Write => access.write,
            Self::Own => access.write || access.owner,
        }
    }
}

/// Returns the node, if it exists and may be used this way. A missing node is reported only to a requester with a right
/// above it.
fn get(view: &mut dyn View, requester: &Requester, path: &str, want: Want) -> Result<Rc<Node>, Refused> {
    let node = view.look(path)?;
    if let Some(node) = node.as_ref().filter(|node| want.is_in(requester.access(&node.permissions))) {
        return Ok(node.clone());
    }
    if node.is_some() && path.starts_with('@') {
        return Err("EACCES");
    }
    let (_, above) = nearest(view, path)?;
    if node.is_none() && want.is_partly_in(requester.access(&above.permissions)) {
        Err("ENOENT")
    } else {
        Err("EACCES")
    }
}

/// Returns the nearest node above; the root for the root.
fn nearest(view: &mut dyn View, path: &str) -> Result<(String, Rc<Node>), Refused> {
    let mut above = parent(path);
    loop {
        if let Some(node) = view.look(above)? {
            return Ok((above.to_owned(), node));
        }
        assert_ne!(above, "/", "the root always exists");
        above = parent(above);
    }
}

/// Returns the number at the beginning of a string, as `atoi` reads it.
fn leading_number(string: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(string);
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 { 0 } else { sign * digits[..end].parse().unwrap_or(i64::MAX) }
}

fn ok() -> Result<Vec<u8>, Refused> {
    Ok(b"OK\0".to_vec())
}

/// Returns the length of the longest path that a client may name.
fn path_limit(requester: &Requester) -> usize {
    match requester.quotas[quota("path-max")] as usize {
        _ if requester.is_privileged => 3072,
        0 => 2048,
        limit => limit.min(2048),
    }
}

/// Returns a path as a client spells it, in full.
pub fn full_path(spelling: &[u8], requester: &Requester) -> Result<String, Refused> {
    let limit = path_limit(requester);
    let text = valid(spelling)?;
    let full = match text.chars().next() {
        None | Some('@') => return Err("EINVAL"),
        Some('/') => text.to_owned(),
        Some(_) => format!("/local/domain/{}/{text}", requester.domid),
    };
    let counted = full.strip_prefix("/local/domain/").and_then(|rest| rest.split_once('/')).map_or(full.len(), |cut| {
        let is_number = (1..=5).contains(&cut.0.len()) && cut.0.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { cut.1.len() } else { full.len() }
    });
    let is_well_formed = full == "/" || !full.ends_with('/') && !full.contains("//");
    if is_well_formed && counted <= limit && full.len() <= 3072 { Ok(full) } else { Err("EINVAL") }
}

/// Returns a path or a special name.
pub fn any_path(spelling: &[u8], requester: &Requester) -> Result<String, Refused> {
    if !spelling.starts_with(b"@") {
        return full_path(spelling, requester);
    }
    let limit = path_limit(requester);
    let text = valid(spelling)?;
    if text.ends_with('/') || text.contains("//") || text.len() > limit { Err("EINVAL") } else { Ok(text.to_owned()) }
}

fn valid(spelling: &[u8]) -> Result<&str, Refused> {
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    if spelling.iter().all(is_valid) { std::str::from_utf8(spelling).map_err(|_| "EINVAL") } else { Err("EINVAL") }
}

/// Returns the strings of a payload, each ended by NUL, and the bytes after the last NUL.
pub fn split(payload: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut parts: Vec<&[u8]> = payload.split(|byte| *byte == 0).collect();
    let rest = parts.pop().unwrap_or_default();
    (parts, rest)
}

/// Returns the only string of a payload.
pub fn only(payload: &[u8]) -> Result<&[u8], Refused> {
    match split(payload) {
        (strings, []) if strings.len() == 1 => Ok(strings[0]),
        _ => Err("EINVAL"),
    }
}

/// Returns all strings of a payload that has `count` of them.
pub fn exactly(payload: &[u8], count: usize) -> Result<Vec<&[u8]>, Refused> {
    let (strings, _) = split(payload);
    if strings.len() == count { Ok(strings) } else { Err("EINVAL") }
}

pub fn decimal(string: &[u8]) -> Result<u64, Refused> {
    let is_decimal = !string.is_empty() && string.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(string).ok().filter(|_| is_decimal);
    text.and_then(|text| text.parse().ok()).ok_or("EINVAL")
}

pub fn domid(string: &[u8]) -> Result<u16, Refused> {
    u16::try_from(decimal(string)?).map_err(|_| "EINVAL")
}

/// Executes a request for nodes, and makes its changes.
pub fn answer(
    view: &mut dyn View,
    requester: &Requester,
    beside: &dyn Surroundings,
    kind: T,
    payload: &[u8],
) -> Result<Vec<u8>, Refused> {
    match kind {
        T::Read => {
            let path = full_path(only(payload)?, requester)?;
            Ok(get(view, requester, &path, Want::Read)?.value.clone())
        }
        T::Directory => {
            let path = full_path(only(payload)?, requester)?;
            let node = get(view, requester, &path, Want::Read)?;
            let names: Vec<u8> = node.children.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
            if names.len() > 4096 { Err("E2BIG") } else { Ok(names) }
        }
        T::DirectoryPart => directory_part(view, requester, payload),
        T::GetPerms => {
            let path = any_path(only(payload)?, requester)?;
            Ok(spell(&get(view, requester, &path, Want::Read)?.permissions))
        }
        T::Write => {
            let end = payload.iter().position(|byte| *byte == 0).ok_or("EINVAL")?;
            let path = full_path(&payload[..end], requester)?;
            write(view, requester, &path, &payload[end + 1..])
        }
        T::Mkdir => {
            let path = full_path(only(payload)?, requester)?;
            match get(view, requester, &path, Want::Write) {
                Ok(_) => ok(),
                Err("ENOENT") => make(view, requester, &path, b""),
                Err(refused) => Err(refused),
            }
        }
        T::Rm => {
            let path = full_path(only(payload)?, requester)?;
            rm(view, requester, &path)
        }
        T::SetPerms => {
            let permissions = parse_permissions(payload, requester, beside)?;
            let path = any_path(split(payload).0[0], requester)?;
            set_permissions(view, requester, &path, permissions)
        }
        _ => unreachable!("{kind:?} is not about nodes"),
    }
}

/// Returns the list from a byte on. The number at the beginning differs after each change.
fn directory_part(view: &mut dyn View, requester: &Requester, payload: &[u8]) -> Result<Vec<u8>, Refused> {
    let strings = exactly(payload, 2)?;
    let path = full_path(strings[0], requester)?;
    let node = get(view, requester, &path, Want::Read)?;
    let offset = usize::try_from(leading_number(strings[1])).unwrap_or(usize::MAX);
    let names: Vec<u8> = node.children.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
    Ok([b"\0", names.get(offset..).unwrap_or_default(), b"\0"].concat())
}

fn write(view: &mut dyn View, requester: &Requester, path: &str, value: &[u8]) -> Result<Vec<u8>, Refused> {
    match get(view, requester, path, Want::Write) {
        Ok(node) => {
            let new = Node { value: value.to_vec(), ..(*node).clone() };
            if requester.exceeds("node-size", new.record_bytes()) {
                return Err("ENOSPC");
            }
            view.set(path, Some(new));
            view.tell(path, None);
            ok()
        }
        Err("ENOENT") => make(view, requester, path, value),
        Err(refused) => Err(refused),
    }
}

/// Makes a node and its missing ancestors, all with the permissions of the nearest existing node above.
fn make(view: &mut dyn View, requester: &Requester, path: &str, value: &[u8]) -> Result<Vec<u8>, Refused> {
    let (above, existing) = nearest(view, path)?;
    let mut permissions = existing.permissions.clone();
    if !requester.is_privileged {
        permissions[0].domid = requester.domid;
    }
    // From the top one down to the node.
    let mut missing = vec![path.to_owned()];
    while parent(&missing[0]) != above {
        missing.insert(0, parent(&missing[0]).to_owned());
    }
    let mut new: Vec<Node> = Vec::new();
    for (at, path) in missing.iter().enumerate() {
        let next = missing.get(at + 1);
        new.push(Node {
            value: if next.is_none() { value.to_vec() } else { Vec::new() },
            permissions: permissions.clone(),
            children: next.map(|next| name(next).to_owned()).into_iter().collect(),
            version: 0,
        });
        assert!(path.len() > 1, "the root exists");
    }
    let mut changed = (*existing).clone();
    // In a transaction, the list may still name a child that others have removed meanwhile: the commit will conflict.
    let is_listed = changed.children.iter().any(|have| have == name(&missing[0]));
    let larger = changed.record_bytes() + name(&missing[0]).len() + 1;
    if !is_listed {
        changed.children.push(name(&missing[0]).to_owned());
    }
    let is_too_large = new.iter().any(|node| requester.exceeds("node-size", node.record_bytes()));
    let owned = usize::try_from(requester.nodes).unwrap_or(0) + missing.len();
    if is_too_large || requester.exceeds("node-size", larger) || requester.exceeds("nodes", owned) {
        return Err("ENOSPC");
    }
    view.set(&above, Some(changed));
    for (path, node) in missing.iter().zip(new) {
        view.set(path, Some(node));
    }
    view.note_created();
    view.tell(path, None);
    ok()
}

fn rm(view: &mut dyn View, requester: &Requester, path: &str) -> Result<Vec<u8>, Refused> {
    match get(view, requester, path, Want::Write) {
        Ok(_) => {}
        Err("ENOENT") => {
            let is_above_there = path != "/" && view.look(parent(path))?.is_some();
            return if is_above_there { ok() } else { Err("ENOENT") };
        }
        Err(refused) => return Err(refused),
    }
    if path == "/" {
        return Err("EINVAL");
    }
    let above = view.look(parent(path))?;
    let mut gone = Vec::new();
    find_below(view, path, &mut gone)?;
    for each in &gone {
        view.tell_removal(each, each == path);
    }
    for each in &gone {
        view.set(each, None);
    }
    // In a transaction, a parent that was not accessed before may be gone: the commit will conflict.
    if let Some(above) = above {
        let mut above = (*above).clone();
        above.children.retain(|have| have != name(path));
        view.set(parent(path), Some(above));
    }
    ok()
}

/// Returns the node and those below, children first.
fn find_below(view: &mut dyn View, path: &str, found: &mut Vec<String>) -> Result<(), Refused> {
    if let Some(node) = view.look(path)? {
        for name in &node.children {
            find_below(view, &child(path, name), found)?;
        }
        found.push(path.to_owned());
    }
    Ok(())
}

fn set_permissions(
    view: &mut dyn View,
    requester: &Requester,
    path: &str,
    new: Permissions,
) -> Result<Vec<u8>, Refused> {
    let before = get(view, requester, path, Want::Own)?;
    refuse_new_owner(requester, &before.permissions, &new)?;
    let node = Node { permissions: new, ..(*before).clone() };
    if path.starts_with('/') && requester.exceeds("node-size", node.record_bytes()) {
        return Err("ENOSPC");
    }
    view.set(path, Some(node));
    view.tell(path, Some(&before));
    ok()
}

/// Refuses a new owner, unless the requester is the control domain.
pub fn refuse_new_owner(requester: &Requester, before: &Permissions, new: &Permissions) -> Result<(), Refused> {
    if requester.is_privileged || before[0].domid == new[0].domid { Ok(()) } else { Err("EPERM") }
}

/// Returns the permissions of a SET_PERMS, with the state of the domains that they name.
pub fn parse_permissions(
    payload: &[u8],
    requester: &Requester,
    beside: &dyn Surroundings,
) -> Result<Permissions, Refused> {
    let (strings, _) = split(payload);
    if strings.len() < 2 {
        return Err("EINVAL");
    }
    if requester.exceeds("node-permissions", strings.len() - 1) {
        return Err("ENOSPC");
    }
    let mut permissions = Vec::new();
    for string in &strings[1..] {
        let (letter, number) = string.split_first().ok_or("EINVAL")?;
        if !b"nrwb".contains(letter) {
            return Err("EINVAL");
        }
        permissions.push(Entry { letter: char::from(*letter), domid: domid(number)?, counts: true });
    }
    for (at, entry) in permissions.iter_mut().enumerate() {
        let counts = if entry.domid == ANY { requester.may_name_all } else { beside.exists(entry.domid) };
        if at == 0 && !counts {
            return Err("ENOENT");
        }
        entry.counts = counts;
    }
    Ok(permissions)
}

/// Returns the form of the reply to GET_PERMS.
pub fn spell(permissions: &Permissions) -> Vec<u8> {
    permissions.iter().flat_map(|entry| format!("{}{}\0", entry.letter, entry.domid).into_bytes()).collect()
}
