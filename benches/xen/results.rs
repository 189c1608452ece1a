//! The figures of the boots, by name. A boot gives one sample, or several if its job repeats a measurement.

use std::collections::BTreeMap;

use crate::plan::{Boot, Store};

/// Release, store and name of a figure.
type Key = (&'static str, Store, String);

/// A line `name key=value ...` that a job prints.
struct Line<'a> {
    name: &'a str,
    fields: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Self {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        Self { name, fields: words.filter_map(|word| word.split_once('=')).collect() }
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.fields.get(key)?.parse().ok()
    }
}

/// Samples, sorted by size.
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 { self.0[middle] } else { f64::midpoint(self.0[middle - 1], self.0[middle]) }
    }

    pub(crate) fn least(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// All figures.
#[derive(Default)]
pub(crate) struct Results {
    samples: BTreeMap<Key, Vec<f64>>,
    failures: Vec<String>,
    loads: Vec<f64>,
}

impl Results {
    /// Reads the existing files of these boots.
    pub(crate) fn read(boots: &[Boot]) -> Self {
        let mut results = Self::default();
        for boot in boots {
            results.read_boot(boot);
        }
        results
    }

    /// Returns the samples of one figure; `None` without a sample.
    pub(crate) fn get(&self, release: &'static str, store: Store, what: &str) -> Option<Samples> {
        let mut samples = self.samples.get(&(release, store, what.to_owned()))?.clone();
        samples.sort_by(f64::total_cmp);
        Some(Samples(samples))
    }

    /// Returns the names of figures with a prefix, each once and without the prefix.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (_, _, name) in self.samples.keys() {
            if let Some(rest) = name.strip_prefix(prefix)
                && !names.iter().any(|known| known == rest)
            {
                names.push(rest.to_owned());
            }
        }
        names
    }

    /// Returns the failures of the boots.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Returns the machine's load at each boot.
    pub(crate) fn loads(&self) -> Option<Samples> {
        let mut loads = self.loads.clone();
        loads.sort_by(f64::total_cmp);
        (!loads.is_empty()).then_some(Samples(loads))
    }

    fn add(&mut self, boot: &Boot, what: impl Into<String>, value: f64) {
        self.samples.entry((boot.release, boot.store, what.into())).or_default().push(value);
    }

    fn fail(&mut self, boot: &Boot, what: &str) {
        self.failures.push(format!("{}: {what}", boot.name()));
    }

    fn read_boot(&mut self, boot: &Boot) {
        // A host without this file was never booted.
        let Some(load) = boot.file("load") else { return };
        self.loads.extend(load.trim().parse::<f64>().ok());
        for (section, ..) in boot.sections() {
            let output = boot.file(&format!("{section}.out")).unwrap_or_default();
            match boot.file(&format!("{section}.status")) {
                None => self.fail(boot, &format!("{section} did not run")),
                Some(status) if status.trim() != "0" => {
                    self.fail(boot, &format!("{section} ended with status {}", status.trim()));
                }
                Some(_) => {}
            }
            for line in output.lines().filter(|line| line.contains("FAILED")) {
                self.fail(boot, &format!("{section}: {line}"));
            }
            if section == "test-xenstore" {
                self.read_test(boot, &output)
            } else {
                self.read_lines(boot, section, &output)
            }
        }
        let started = boot.file("init-xenstore-domain.ms").or_else(|| boot.file("xenstored.ms"));
        if let Some(ms) = started.and_then(|text| text.trim().parse().ok()) {
            self.add(boot, "start ms", ms);
        }
        let console = boot.file("console/guest-Xenstore.log").unwrap_or_default();
        let first = console.lines().find_map(|line| line.split("first reply ").nth(1)?.split(' ').next()?.parse().ok());
        if let Some(us) = first {
            self.add(boot, "first reply us", us);
        }
    }

    /// Reads the lines of Xen's own test: `read 1    : avg: 306475 ns (… ns .. … ns)`.
    fn read_test(&mut self, boot: &Boot, output: &str) {
        for line in output.lines() {
            let Some((name, rest)) = line.split_once(": avg: ") else { continue };
            let Some(ns) = rest.split(' ').next().and_then(|text| text.parse::<f64>().ok()) else { continue };
            self.add(boot, format!("test {}", name.trim()), ns / 1000.0);
        }
    }

    fn read_lines(&mut self, boot: &Boot, section: &str, output: &str) {
        let lines: Vec<Line<'_>> = output.lines().map(Line::parse).collect();
        for line in &lines {
            let nodes = line.fields.get("nodes").copied().unwrap_or_default();
            match line.name {
                "latency" | "ping" | "at-once" | "created" | "destroyed" | "ports" => {
                    self.add_all(boot, &format!("{section} {}", line.name), line, 1.0);
                }
                "scale" => {
                    let at = line.fields.get("at").copied().unwrap_or_default();
                    self.add_all(boot, &format!("scale {at}"), line, 1.0);
                }
                "pause" => self.add_one(boot, format!("pause {nodes}"), line.number("longest"), 1e-3),
                "update" => self.add_one(boot, format!("update command {nodes}"), line.number("command_ms"), 1.0),
                "parts" => {
                    for part in ["saved", "switched", "restored", "took_over"] {
                        self.add_one(boot, format!("{part} {nodes}"), line.number(part), 1e-3);
                    }
                    self.add_one(boot, format!("bytes {nodes}"), line.number("bytes"), 1.0);
                }
                "needed" => self.add_one(boot, format!("needed {nodes}"), line.number("needed_kib"), 1.0),
                "memory" if line.fields.get("at") == Some(&"connected") => {
                    self.add_one(boot, "scale used".to_owned(), line.number("used"), 1.0);
                    self.add_one(boot, "scale rings".to_owned(), line.number("rings"), 1.0);
                }
                _ => {}
            }
        }
        self.read_guests(boot, &lines);
        self.read_work(boot, section, &lines);
    }

    fn add_one(&mut self, boot: &Boot, what: String, value: Option<f64>, factor: f64) {
        if let Some(value) = value {
            self.add(boot, what, value * factor);
        }
    }

    fn add_all(&mut self, boot: &Boot, what: &str, line: &Line<'_>, factor: f64) {
        for key in line.fields.keys() {
            self.add_one(boot, format!("{what} {key}"), line.number(key), factor);
        }
    }

    /// Adds up the results of guests that ran at once.
    fn read_guests(&mut self, boot: &Boot, lines: &[Line<'_>]) {
        let guests: Vec<&Line<'_>> = lines.iter().filter(|line| line.name == "guest").collect();
        let all = |key: &str| guests.iter().filter_map(|line| line.number(key)).collect::<Vec<f64>>();
        let (requests, us) = (all("requests"), all("us"));
        if guests.is_empty() || requests.len() != us.len() {
            return;
        }
        let rate: f64 = requests.iter().zip(&us).map(|(requests, us)| requests / us * 1e6).sum();
        self.add(boot, "guests rate", rate);
        self.add(boot, "guests mean us", us.iter().sum::<f64>() / requests.iter().sum::<f64>());
        for key in ["median", "p99"] {
            let values = all(key);
            self.add(boot, format!("guests {key} us"), values.iter().sum::<f64>() / values.len() as f64);
        }
        if all("wrong").iter().sum::<f64>() > 0.0 {
            self.fail(boot, "guests got wrong answers");
        }
    }

    /// Adds the kernel's work between two reports, per request. The few requests of the reports are included.
    fn read_work(&mut self, boot: &Boot, section: &str, lines: &[Line<'_>]) {
        let at = |moment: &str| lines.iter().find(|line| line.name == "work" && line.fields.get("at") == Some(&moment));
        let (Some(before), Some(after)) = (at("before"), at("after")) else { return };
        let done = |key: &str| Some(after.number(key)? - before.number(key)?);
        if section == "idle" {
            for key in ["requests", "wakeups", "hypercalls", "running_us"] {
                self.add_one(boot, format!("idle {key}"), done(key), 1.0);
            }
            return;
        }
        let Some(requests) = done("requests").filter(|count| *count > 0.0) else { return };
        for key in ["wakeups", "events", "notifications", "hypercalls", "running_us"] {
            self.add_one(boot, format!("{section} {key} per request"), done(key), 1.0 / requests);
        }
        if let (Some(events), Some(hypercalls)) = (done("events"), done("hypercalls")) {
            self.add(boot, format!("{section} events per hypercall"), events / hypercalls);
        }
    }
}
