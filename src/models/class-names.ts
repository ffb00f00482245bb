/** Names of the classes that a model's file tells. */

/** The list of names that exports of this project carry, as JSON. */
const ofJson = (text: string): string[] => {
  try {
    const names: unknown = JSON.parse(text);
    return Array.isArray(names) && names.every((name) => typeof name === "string") ? names : [];
  } catch {
    return [];
  }
};

/** A dictionary {0: 'cat', 1: 'dog'} as Python prints it, which YOLO's exports carry. */
const ofDictionary = (text: string): string[] => {
  const names: string[] = [];
  for (const [, place, single, double] of text.matchAll(/(\d+)\s*:\s*(?:'([^']*)'|"([^"]*)")/g))
    names[Number(place)] = single ?? double ?? "";
  return names.includes("") || Object.keys(names).length !== names.length ? [] : names;
};

/** What a number is called where it has no name. */
const numbered = /^(class|label)?[ _-]?\d+$/i;

/** Whether names say more than the numbers do. */
export const areNames = (names: readonly string[]): boolean =>
  names.length > 0 && !names.every((n) => numbered.test(n));

/** Names in a file's metadata, in the order of its outputs; none where it tells none. */
export const namesOf = ({ classes, names }: Readonly<Record<string, string>>): readonly string[] => {
  const found = classes === undefined ? ofDictionary(names ?? "") : ofJson(classes);
  return areNames(found) ? found : [];
};
