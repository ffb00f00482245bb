/** Folders that systems leave among people's files: macOS in zip archives, Synology's thumbnails, Windows' bin. */
const systemNames: ReadonlySet<string> = new Set([
  "__macosx",
  "@eadir",
  "$recycle.bin",
  "system volume information",
  "lost+found",
  "thumbs.db",
  "desktop.ini",
]);

/** Whether an entry of a folder is nobody's data: hidden (`.DS_Store`, `._fog.npy`), or left there by a system. */
export const isHidden = (name: string): boolean => name.startsWith(".") || systemNames.has(name.toLowerCase());
