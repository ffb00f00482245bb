/** A setting as users write it, in flags and files: `attackSteps` → `attack-steps`. */
export const kebabCase = (key: string): string => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** A setting as code names it, from any spelling: `attack-steps`, `attack_steps` → `attackSteps`. */
export const camelCase = (name: string): string =>
  name.replace(/[-_]+(.)/g, (_, letter: string) => letter.toUpperCase());

/** What a setting may hold; undefined where it is not given and has no default. */
export type SettingValue = string | number | boolean | readonly number[] | readonly string[] | undefined;

/** Numbers given in 255ths, as attacks on images are, are printed so. */
const printNumber = (value: number): string => {
  const parts = Math.round(value * 255);
  return value !== 0 && !Number.isInteger(value) && parts / 255 === value && String(value).length > 8
    ? `${parts}/255`
    : String(value);
};

/** A setting's value as messages print it. */
export const printSetting = (value: SettingValue): string => {
  if (value === undefined) return "not set";
  if (typeof value === "number") return printNumber(value);
  if (typeof value === "object") return value.length === 0 ? "none" : value.map(printSetting).join(",");
  return value === "" ? '""' : String(value);
};

/** Settings as flags that a user can type; what is undefined is left out. */
export const printFlags = (settings: object): string[] =>
  Object.entries(settings).flatMap(([key, value]) => {
    const name = kebabCase(key);
    if (value === undefined) return [];
    if (value === true) return [`--${name}`];
    if (value === false || (Array.isArray(value) && value.length === 0)) return [`--no-${name}`];
    return [`--${name}`, Array.isArray(value) ? value.join(",") : String(value)];
  });
