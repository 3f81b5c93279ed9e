//! What a person sees at a terminal of 80 columns, with colours and without.

#[path = "support/terminal.rs"]
mod terminal;

use imapmove::demo::Server;
use tempfile::NamedTempFile;
use terminal::Terminal;

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_password_is_asked_for_and_not_shown() {
    let server = Server::start().await.expect("a port");
    let url = format!("imap://demo@{}", server.address());
    let mut terminal = Terminal::run(&["probe", &url], &[("NO_COLOR", "1")]);
    terminal.until(&format!("Password for {url}: "));
    terminal.type_unseen("demo");
    let (code, shown) = terminal.ended();
    let (_, report) = shown.split_once(": \r\n").expect("nothing behind the question");
    assert!(report.starts_with(&format!("imapmove probe {url}\r\n")), "{report:?}");
    assert!(report.contains("\nMOVE will work.\r\n") && code == 0, "{code}: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_not_shown() {
    let server = Server::start().await.expect("a port");
    let url = format!("imap://demo@{}", server.address());
    let mut terminal = Terminal::run(&["probe", &url], &[]);
    terminal.until(": ");
    terminal.type_unseen("jabberwocky");
    let (code, shown) = terminal.ended();
    assert!(code == 2 && shown.contains("could not be found out"), "{code}: {shown}");
    assert!(!shown.contains("jabberwocky"), "{shown}");
}

#[test]
fn whoever_types_no_password_is_told_so_on_a_line_of_its_own() {
    for types_a_line in [true, false] {
        let mut terminal = Terminal::run(&["probe", "imap://alice@127.0.0.1:9"], &[]);
        terminal.until(": ");
        if types_a_line {
            terminal.type_unseen("")
        } else {
            terminal.type_the_end()
        }
        let (code, shown) = terminal.ended();
        let said = shown.ends_with(": \r\nimapmove: password: expected one that is not empty\r\n");
        assert!(code == 2 && said, "{code}: {shown:?}");
    }
}

/// People have 80 columns, and colours only where they want them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_terminal_shows_fits_it_and_is_coloured_as_wanted() {
    let server = Server::start().await.expect("a port");
    let (url, password) =
        (format!("imap://demo@{}", server.address()), NamedTempFile::new().expect("a file"));
    std::fs::write(password.path(), "demo\n").expect("writes");
    let password = password.path().to_str().expect("text");
    let check = ["check", "--upstream", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--admin", "off"];
    let probe = ["probe", "--try", "--password-file", password, &url];
    let (demo, help, help_of_probe) = (["demo", "--once"], ["--help"], ["probe", "--help"]);
    for (arguments, has_colours) in
        [(&check[..], true), (&probe, true), (&demo, true), (&help, false), (&help_of_probe, false)]
    {
        let shown = |variables: &[(&str, &str)]| {
            let (code, shown) = Terminal::run(arguments, variables).ended();
            assert_eq!(code, 0, "{arguments:?}: {shown}");
            shown
        };
        let in_colours = shown(&[]);
        assert_eq!(in_colours.contains('\x1b'), has_colours, "{arguments:?}: {in_colours}");
        for plain in [shown(&[("NO_COLOR", "1")]), shown(&[("TERM", "dumb")])] {
            assert!(!plain.contains('\x1b'), "{arguments:?}: {plain}");
            let longest = plain.lines().map(|line| line.chars().count()).max();
            assert!(longest.is_some_and(|columns| columns <= 80), "{longest:?}: {plain}");
        }
    }
}

#[test]
fn a_log_on_a_terminal_is_coloured_as_wanted() {
    let ports = ["--listen", "127.0.0.1:0", "--admin", "off", "--drain-grace", "0s"];
    let gateway = [&["--upstream", "127.0.0.1:9"], &ports[..]].concat();
    for (variables, has_colours) in
        [(&[][..], true), (&[("NO_COLOR", "1")], false), (&[("TERM", "dumb")], false)]
    {
        let mut terminal = Terminal::run(&gateway, variables);
        terminal.until("listening");
        terminal.interrupt();
        let (code, shown) = terminal.ended();
        assert_eq!((code, shown.contains("\x1b[")), (0, has_colours), "{variables:?}: {shown}");
    }
}
