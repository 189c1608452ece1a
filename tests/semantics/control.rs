//! The CONTROL commands. Answers that programs may read have the wording of the C server of 4.22.

use xenstore::wire::header::MessageType;

use crate::support::testbed::{Answer, Testbed, error, ok, string};

fn control(testbed: &mut Testbed, words: &str) -> Answer {
    let payload: String = words.split(' ').map(|word| format!("{word}\0")).collect();
    testbed.request(0, MessageType::Control, payload)
}

fn text(testbed: &mut Testbed, words: &str) -> String {
    string(&control(testbed, words).unwrap_or_else(|error| panic!("{words}: {error}")))
}

#[test]
fn help_has_a_line_for_each_command() {
    let mut testbed = Testbed::new();
    assert_eq!(
        text(&mut testbed, "help"),
        "check           \n\
         log             [on|off|+<switch>|-<switch>]\n\
         logfile         <file>\n\
         memreport       [<file>]\n\
         print           <string>\n\
         quota           [set <name> <val>|<domid>|max [-r]]\n\
         quota-soft      [set <name> <val>]\n\
         live-update     [-c <cmdline>] [-F] [-t <seconds>] [-v <version>] <file>\n\
         stream-version  [1|2|auto]\n\
         update-report   [<version>]\n\
         stream          [<offset>]\n\
         help            \n"
    );
}

#[test]
fn wrong_commands_and_wrong_parameters_are_refused_and_change_nothing() {
    let mut testbed = Testbed::with_homes([5]);
    let before = text(&mut testbed, "quota");
    for words in [
        "",
        "unknown",
        "Check",
        "check it",
        "help me",
        "print",
        "print a b",
        "log on off",
        "log io",
        "log +all",
        "log ",
        "logfile",
        "logfile a b",
        "memreport a b",
        "quota set",
        "quota set nodes",
        "quota set nodes x",
        "quota set nodes 0",
        "quota set nodes -1",
        "quota set nodes 2147483648",
        "quota set nodes 1 2",
        "quota set unknown 1",
        "quota max -x",
        "quota max -r -r",
        "quota x",
        "quota 5 5",
        "quota-soft 5",
        "quota-soft max",
        "quota-soft set nodes 1",
        "live-update",
    ] {
        assert_eq!(control(&mut testbed, words), error("EINVAL"), "{words:?}");
    }
    for payload in ["check", "print\0a", "\0check\0"] {
        assert_eq!(testbed.request(0, MessageType::Control, payload), error("EINVAL"), "{payload:?}");
    }
    assert_eq!(text(&mut testbed, "quota"), before);
    for words in ["check", "help", "quota", "quota set nodes 1", "log on"] {
        let payload: String = words.split(' ').map(|word| format!("{word}\0")).collect();
        assert_eq!(testbed.request(5, MessageType::Control, payload), error("EACCES"), "{words:?}");
    }
}

#[test]
fn quota_shows_and_sets_the_values_for_all_domains() {
    let mut testbed = Testbed::with_guests([5, 6]);
    assert_eq!(
        text(&mut testbed, "quota"),
        "Quota settings:\n\
         nodes            :     1000 Nodes per domain\n\
         watches          :      128 Watches per domain\n\
         outstanding      :       20 Outstanding requests per domain\n\
         memory           :  2621440 Total Xenstore memory per domain\n\
         transactions     :       10 Active transactions per domain\n\
         transaction-nodes:     1024 Max. number of accessed nodes per transaction\n\
         node-permissions :        5 Max. number of permissions per node\n\
         path-max         :     2048 Max. length of a node path\n\
         node-size        :     2048 Max. size of a node\n"
    );
    assert_eq!(
        text(&mut testbed, "quota-soft"),
        "Quota settings:\nmemory           :  2097152 Total Xenstore memory per domain\n"
    );
    testbed.request(0, MessageType::SetQuota, "6\0watches\x003\0").unwrap();
    assert_eq!(control(&mut testbed, "quota set watches 1"), ok());
    assert_eq!(control(&mut testbed, "quota set permissions 9"), ok(), "the name of 4.17");
    assert_eq!(control(&mut testbed, "quota-soft set memory 99"), ok());
    let now = text(&mut testbed, "quota");
    assert!(now.contains("watches          :        1 ") && now.contains("node-permissions :        9 "), "{now}");
    assert!(text(&mut testbed, "quota-soft").contains("memory           :       99 "));
    let quota = |testbed: &mut Testbed, payload| string(&testbed.request(0, MessageType::GetQuota, payload).unwrap());
    assert_eq!(quota(&mut testbed, "5\0watches\0"), "1", "a known domain");
    assert_eq!(quota(&mut testbed, "6\0watches\0"), "3", "a domain with a value of its own");
    testbed.start(7);
    assert_eq!(quota(&mut testbed, "7\0watches\0"), "1", "a future domain");
}

#[test]
fn quota_of_a_domain_shows_its_use_and_its_maxima() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.write(5, "a/b", &"x".repeat(100)).unwrap();
    testbed.watch(5, "a", "t").unwrap();
    testbed.events(5);
    let transactions = [testbed.begin(5), testbed.begin(5)];
    for path in ["a", "b", "c"] {
        let _ = testbed.read_in(5, transactions[0], path);
    }
    testbed.end(5, transactions[1], false).unwrap();
    testbed.rm(5, "a/b").unwrap();
    testbed.set_perms(5, "a", "n5 r1 r2").unwrap();
    let shown = text(&mut testbed, "quota 5");
    for line in [
        "Domain 5:\n",
        "nodes            :        2 (max        3)\n",
        "watches          :        1 (max        1)\n",
        "transactions     :        1 (max        2)\n",
        "transaction-nodes:        0 (max        4)\n",
        "node-permissions :        0 (max        3)\n",
    ] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
    assert!(control(&mut testbed, "quota 0").is_ok());
    assert_eq!(control(&mut testbed, "quota 6"), error("ENOENT"));
    assert_eq!(control(&mut testbed, "quota 99999"), error("ENOENT"));
}

#[test]
fn quota_max_shows_the_maxima_of_all_guests_and_restarts_them_on_request() {
    let mut testbed = Testbed::with_homes([5, 6]);
    for count in 0..7 {
        testbed.watch(5, "a", &count.to_string()).unwrap();
        testbed.watch(6, "a", &count.to_string()).unwrap();
        testbed.watch(0, "/a", &count.to_string()).unwrap();
    }
    for domid in [0, 5, 6] {
        testbed.events(domid);
    }
    testbed.watch(0, "/b", "not a guest").unwrap();
    let watches = |text: &str| text.lines().find(|line| line.starts_with("watches")).unwrap().to_owned();
    let shown = text(&mut testbed, "quota max");
    assert!(shown.starts_with("Max. seen accounting values:\nnodes            :        "), "{shown}");
    assert_eq!(watches(&shown), "watches          :        7");
    testbed.unwatch(5, "a", "0").unwrap();
    testbed.kill(6);
    assert_eq!(
        watches(&text(&mut testbed, "quota max")),
        "watches          :        7",
        "including domains that are gone"
    );
    assert_eq!(watches(&text(&mut testbed, "quota max -r")), "watches          :        6", "the present values");
    testbed.unwatch(5, "a", "1").unwrap();
    assert_eq!(watches(&text(&mut testbed, "quota max")), "watches          :        6");
    assert!(text(&mut testbed, "quota 5").contains("watches          :        5 (max        6)"));
}

#[test]
fn log_shows_and_sets_its_switches() {
    let mut testbed = Testbed::new();
    let all_off = "Log switch settings:\nobj     : off\nio      : off\nwrl     : off\nacc     : off\ntdb     : off\n";
    assert_eq!(text(&mut testbed, "log"), all_off);
    for (command, name) in [("log +io", "io"), ("log +tdb", "tdb")] {
        assert_eq!(control(&mut testbed, command), ok());
        assert!(text(&mut testbed, "log").contains(&format!("{name:8}: on\n")));
    }
    for command in ["log off", "log on", "log -io", "log -tdb", "log -obj"] {
        assert_eq!(control(&mut testbed, command), ok());
    }
    assert_eq!(text(&mut testbed, "log"), all_off);
}

#[test]
fn logfile_and_memreport_answer_as_far_as_a_domain_without_files_can() {
    let mut testbed = Testbed::with_homes([5]);
    assert!(text(&mut testbed, "logfile /tmp/log").contains("xl console Xenstore"));
    for words in ["memreport", "memreport /tmp/report"] {
        let report = text(&mut testbed, words);
        for line in ["nodes            :        6\n", "domains          :        2\n", "connections      :        2\n"]
        {
            assert!(report.contains(line), "{line:?} in\n{report}");
        }
    }
}

#[test]
fn check_answers_ok_when_all_counts_agree() {
    let mut testbed = Testbed::with_homes([5, 6]);
    testbed.write(5, "a/b", "").unwrap();
    testbed.set_perms(5, "a", "n5 r6").unwrap();
    testbed.watch(5, "a", "t").unwrap();
    testbed.begin(6);
    assert_eq!(text(&mut testbed, "check"), "OK");
    testbed.kill(5);
    assert_eq!(text(&mut testbed, "check"), "OK");
    testbed.release(0, 6).unwrap();
    assert_eq!(text(&mut testbed, "check"), "OK");
}

#[test]
fn print_writes_a_line_and_every_command_leaves_the_store_as_it_is() {
    let mut testbed = Testbed::with_homes([5]);
    let before = testbed.server.engine().state().generation();
    for words in ["print a-line", "check", "memreport", "log", "quota", "quota max", "help", "quota 5"] {
        assert!(control(&mut testbed, words).is_ok(), "{words}");
    }
    assert_eq!(testbed.server.engine().state().generation(), before);
}
