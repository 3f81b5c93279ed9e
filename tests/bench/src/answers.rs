//! What a canned server answers.

/// The octets of an answer to FETCH, but for its tagged line.
pub fn fetched(count: u32, size: usize) -> Vec<u8> {
    let body = vec![b'm'; size];
    let mut answer = Vec::with_capacity(count as usize * (size + 64));
    for n in 1..=count {
        answer.extend_from_slice(format!("* {n} FETCH (BODY[]<0> {{{size}}}\r\n").as_bytes());
        answer.extend_from_slice(&body);
        answer.extend_from_slice(b")\r\n");
    }
    answer
}

/// What a step of a MOVE of `many` messages is answered with, and its response code. Their UIDs are so far apart.
pub fn moved(step: &str, many: u32, apart: u32) -> (Vec<u8>, String) {
    let uid = |n: u32| apart * (n - 1) + 1;
    let lines = |line: &dyn Fn(u32) -> String| (1..=many).map(line).collect::<String>().into_bytes();
    match step {
        "FETCH" => (lines(&|n| format!("* {n} FETCH (UID {})\r\n", uid(n))), String::new()),
        "SEARCH" => (b"* SEARCH\r\n".to_vec(), String::new()),
        "COPY" if apart == 1 => (Vec::new(), format!("[COPYUID 1 1:{many} 1:{many}] ")),
        "COPY" => {
            let uids: Vec<String> = (1..=many).map(|n| uid(n).to_string()).collect();
            let uids = uids.join(",");
            (Vec::new(), format!("[COPYUID 1 {uids} {uids}] "))
        }
        "EXPUNGE" => (lines(&|n| format!("* {} EXPUNGE\r\n", many + 1 - n)), String::new()),
        _ => (Vec::new(), String::new()),
    }
}
