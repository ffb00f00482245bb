/** Names of the files that reports are written to and made of. */
export const reportFile = "report.html";
/** Beside a run's log: what its classifier got on test images. */
export const resultsFile = "results.json";

/** What `advcl report A B` writes into A, which has a report of its own. */
export const sideBySideFile = "side-by-side.html";
