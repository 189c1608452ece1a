//! Requests for watches, transactions, domains and settings.

use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType as T;

use crate::model::{Answer, Model, Observed, Watch, exactly, refusal, simply_ok};
use crate::nodes::Transaction;
use crate::queue::Payload;
use crate::rules::{self, QUOTAS, decimal, domid as parse_domid, quota, split};
use crate::support::machine::{BAD_PORT, Machine};

impl Model {
    pub fn about_others(
        &mut self,
        domid: u16,
        number: u32,
        kind: T,
        payload: &[u8],
        observed: Observed<'_>,
        machine: &Machine,
    ) -> Answer {
        let grows = matches!(kind, T::Watch | T::TransactionStart | T::Introduce);
        let asked = match kind {
            T::Watch => self.watch(domid, payload, observed),
            T::Unwatch => self.unwatch(domid, payload, observed),
            T::ResetWatches => {
                self.connection(domid).watches.clear();
                self.connection(domid).transactions.clear();
                simply_ok(observed)
            }
            T::TransactionStart => self.start(domid, number, observed),
            T::Introduce => self.asked_to_introduce(payload, observed, machine),
            T::Release | T::Resume => match self.introduced_guest(payload) {
                Err(refused) => refusal(refused, observed),
                Ok(guest) if kind == T::Release => {
                    self.release(guest);
                    simply_ok(observed)
                }
                Ok(guest) => {
                    self.known.get_mut(&guest).expect("the domain is introduced").is_shut_down = false;
                    simply_ok(observed)
                }
            },
            T::SetTarget => self.set_target(payload, observed),
            T::IsDomainIntroduced => match rules::only(payload).and_then(parse_domid) {
                Ok(guest) if guest == 0x7ff0 || self.connections.contains_key(&guest) => exactly(b"T\0", observed),
                Ok(_) => exactly(b"F\0", observed),
                Err(refused) => refusal(refused, observed),
            },
            T::GetDomainPath => match rules::only(payload).and_then(parse_domid) {
                Ok(guest) => exactly(format!("/local/domain/{guest}\0").as_bytes(), observed),
                Err(refused) => refusal(refused, observed),
            },
            T::GetFeature => match self.get_feature(domid, payload, machine) {
                Ok(features) => exactly(format!("{features}\0").as_bytes(), observed),
                Err(refused) => refusal(refused, observed),
            },
            T::SetFeature => self.set_feature(payload, observed, machine),
            T::GetQuota => self.get_quota(payload, observed, machine),
            T::SetQuota => self.set_quota(payload, observed, machine),
            T::Control => self.control(payload, observed),
            _ => unreachable!("{kind:?} is about nodes"),
        };
        let is_long = matches!(kind, T::GetDomainPath | T::GetQuota | T::Control);
        if asked.is_err() && observed == Err("ENOSPC") && (grows || is_long) && self.may_be_refused_memory(domid) {
            self.tally.refused_for_memory += 1;
            return refusal("ENOSPC", observed);
        }
        asked
    }

    fn watch(&mut self, domid: u16, payload: &[u8], observed: Observed<'_>) -> Answer {
        let requester = self.requester(domid);
        let strings = split(payload).0;
        let depth = match strings.get(2) {
            Some(_) if self.features(domid) & 4 == 0 => Err("EINVAL"),
            Some(depth) => decimal(depth).and_then(|depth| u32::try_from(depth).map_err(|_| "EINVAL")).map(Some),
            None => Ok(None),
        };
        if !matches!(strings.len(), 2 | 3) {
            return refusal("EINVAL", observed);
        }
        let (depth, path) = match (depth, rules::any_path(strings[0], &requester)) {
            (Ok(depth), Ok(path)) => (depth, path),
            _ => return refusal("EINVAL", observed),
        };
        let watches = &self.connection(domid).watches;
        if watches.iter().any(|watch| watch.path == path && watch.token == strings[1]) {
            return refusal("EEXIST", observed);
        }
        if requester.exceeds("watches", watches.len() + 1) {
            return refusal("ENOSPC", observed);
        }
        let answer = simply_ok(observed)?;
        let is_relative = !matches!(strings[0].first(), Some(b'/' | b'@'));
        let relative = if is_relative { format!("/local/domain/{domid}/").len() } else { 0 };
        self.connection(domid).watches.push(Watch { path, token: strings[1].to_vec(), depth, relative });
        Ok(answer)
    }

    fn unwatch(&mut self, domid: u16, payload: &[u8], observed: Observed<'_>) -> Answer {
        let requester = self.requester(domid);
        let found =
            rules::exactly(payload, 2).and_then(|strings| Ok((rules::any_path(strings[0], &requester)?, strings[1])));
        let Ok((path, token)) = found else { return refusal("EINVAL", observed) };
        let watches = &mut self.connection(domid).watches;
        let Some(at) = watches.iter().position(|watch| watch.path == path && watch.token == token) else {
            return refusal("ENOENT", observed);
        };
        watches.remove(at);
        simply_ok(observed)
    }

    fn start(&mut self, domid: u16, number: u32, observed: Observed<'_>) -> Answer {
        let requester = self.requester(domid);
        let connection = self.connection(domid);
        if number != 0 {
            return refusal("EBUSY", observed);
        }
        if requester.exceeds("transactions", connection.transactions.len() + 1) {
            return refusal("ENOSPC", observed);
        }
        let mut new = connection.newest_transaction.wrapping_add(1);
        while new == 0 || connection.transactions.contains_key(&new) {
            new = new.wrapping_add(1);
        }
        let answer = exactly(format!("{new}\0").as_bytes(), observed)?;
        connection.newest_transaction = new;
        connection.transactions.insert(new, Transaction::default());
        Ok(answer)
    }

    fn asked_to_introduce(&mut self, payload: &[u8], observed: Observed<'_>, machine: &Machine) -> Answer {
        let strings = split(payload).0;
        let parsed = || {
            let [domid, _frame, port] = strings.first_chunk::<3>().ok_or("EINVAL")?;
            let domid = parse_domid(domid)?;
            let port = u32::try_from(decimal(port)?).map_err(|_| "EINVAL")?;
            if domid >= 0x7ff0 || port == 0 { Err("EINVAL") } else { Ok((domid, port)) }
        };
        let (domid, port) = match parsed() {
            Ok(parsed) => parsed,
            Err(refused) => return refusal(refused, observed),
        };
        let can_be_mapped = machine.pages.contains_key(&DomId(domid));
        if self.connections.contains_key(&domid) {
            let answer = simply_ok(observed)?;
            let failed = u64::from(!can_be_mapped && !self.connection(domid).is_mapped || port == BAD_PORT);
            self.tally.introductions_failed += failed;
            self.introduce_again(domid, can_be_mapped, port != BAD_PORT);
            return Ok(answer);
        }
        if !can_be_mapped || port == BAD_PORT {
            self.tally.introductions_failed += 1;
            return refusal(if can_be_mapped { "EINVAL" } else { "ENOENT" }, observed);
        }
        let answer = simply_ok(observed)?;
        self.introduce(domid, machine);
        Ok(answer)
    }

    /// Returns the introduced domain that a request names. dom0 is none.
    fn introduced_guest(&self, payload: &[u8]) -> Result<u16, &'static str> {
        let domid = rules::only(payload).and_then(parse_domid)?;
        match self.connections.contains_key(&domid) {
            _ if domid == 0 => Err("EINVAL"),
            true => Ok(domid),
            false => Err("ENOENT"),
        }
    }

    fn set_target(&mut self, payload: &[u8], observed: Observed<'_>) -> Answer {
        let strings = split(payload).0;
        let named: Result<Vec<u16>, _> = strings.iter().take(2).map(|string| parse_domid(string)).collect();
        let Some(&[domid, target]) = named.as_deref().ok().and_then(|named| named.first_chunk()) else {
            return refusal("EINVAL", observed);
        };
        if ![domid, target].iter().all(|domid| self.connections.contains_key(domid)) {
            return refusal("ENOENT", observed);
        }
        let serial = self.known[&target].serial;
        self.known.get_mut(&domid).expect("the domain is introduced").target = Some((target, serial));
        simply_ok(observed)
    }

    /// Returns whether a domain is known, or at least exists.
    fn is_there(&self, domid: u16, machine: &Machine) -> Result<(), &'static str> {
        let is_there = domid < 0x7ff0 && machine.domains.contains_key(&DomId(domid));
        if self.known.contains_key(&domid) || is_there { Ok(()) } else { Err("ENOENT") }
    }

    fn get_feature(&self, domid: u16, payload: &[u8], machine: &Machine) -> Result<u32, &'static str> {
        if split(payload).0.is_empty() {
            return Ok(self.features(domid));
        }
        if domid != 0 {
            return Err("EACCES");
        }
        let of = parse_domid(rules::exactly(payload, 1)?[0])?;
        self.is_there(of, machine)?;
        Ok(self.features(of))
    }

    fn set_feature(&mut self, payload: &[u8], observed: Observed<'_>, machine: &Machine) -> Answer {
        let asked = rules::exactly(payload, 2).and_then(|strings| {
            let (domid, value) = (parse_domid(strings[0])?, decimal(strings[1])?);
            self.is_there(domid, machine)?;
            if self.connections.contains_key(&domid) {
                return Err("EBUSY");
            }
            if value > 15 { Err("EINVAL") } else { Ok((domid, value as u32)) }
        });
        match asked {
            Err(refused) => refusal(refused, observed),
            Ok((domid, features)) => {
                self.learn(domid, machine);
                self.known.get_mut(&domid).expect("the domain was learned").features = features;
                simply_ok(observed)
            }
        }
    }

    fn get_quota(&self, payload: &[u8], observed: Observed<'_>, machine: &Machine) -> Answer {
        let strings = split(payload).0;
        let value = || match strings[..] {
            [name] => Ok(self.defaults[known_quota(name)?]),
            [domid, name] => {
                let domid = parse_domid(domid)?;
                self.is_there(domid, machine)?;
                let quotas = self.known.get(&domid).map_or(self.defaults, |known| known.quotas);
                Ok(quotas[known_quota(name)?])
            }
            _ => Err("EINVAL"),
        };
        if strings.is_empty() {
            return exactly(&[QUOTAS.join(" ").as_bytes(), b"\0"].concat(), observed);
        }
        match value() {
            Ok(value) => exactly(format!("{value}\0").as_bytes(), observed),
            Err(refused) => refusal(refused, observed),
        }
    }

    fn set_quota(&mut self, payload: &[u8], observed: Observed<'_>, machine: &Machine) -> Answer {
        let strings = split(payload).0;
        let asked = || {
            let (whom, name, value) = match strings[..] {
                [name, value] => (None, name, value),
                [domid, name, value] => {
                    let domid = parse_domid(domid)?;
                    self.is_there(domid, machine)?;
                    (Some(domid), name, value)
                }
                _ => return Err("EINVAL"),
            };
            let value = u32::try_from(decimal(value)?).ok().filter(|value| *value != u32::MAX).ok_or("EINVAL");
            known_quota(name).and_then(|name| Ok((whom, name, value?)))
        };
        match asked() {
            Err(refused) => return refusal(refused, observed),
            Ok((None, name, value)) => self.defaults[name] = value,
            Ok((Some(domid), name, value)) => {
                self.learn(domid, machine);
                let known = self.known.get_mut(&domid).expect("the domain was learned");
                known.quotas[name] = value;
                known.own_quotas[name] = true;
            }
        }
        simply_ok(observed)
    }

    /// Executes the CONTROL commands of histories.
    fn control(&mut self, payload: &[u8], observed: Observed<'_>) -> Answer {
        let strings = split(payload).0;
        match strings[..] {
            [b"check"] | [b"print", _] => simply_ok(observed),
            [b"quota", b"set", name, value] => {
                let name = known_quota(name).expect("histories name existing quotas");
                let value = decimal(value).expect("histories set numbers") as u32;
                self.defaults[name] = value;
                for known in self.known.values_mut().filter(|known| !known.own_quotas[name]) {
                    known.quotas[name] = value;
                }
                simply_ok(observed)
            }
            [b"quota", domid] if domid != b"max" => match parse_domid(domid).map(|domid| self.known.get(&domid)) {
                Ok(Some(_)) => any(observed),
                _ => refusal("ENOENT", observed),
            },
            [b"help" | b"memreport" | b"log" | b"quota" | b"quota-soft", ..] => any(observed),
            _ => refusal("EINVAL", observed),
        }
    }
}

/// Accepts any reply but a refusal.
fn any(observed: Observed<'_>) -> Answer {
    observed.map(Payload::Some).map_err(|_| "any answer".to_owned())
}

fn known_quota(name: &[u8]) -> Result<usize, &'static str> {
    QUOTAS.iter().position(|known| known.as_bytes() == name).ok_or("EINVAL")
}

/// Returns the bytes that a domain may make the server keep; `None` for no limit.
pub fn limit_of_memory(quotas: &[u32; 10]) -> Option<usize> {
    Some(quotas[quota("memory")] as usize).filter(|limit| *limit > 0)
}
